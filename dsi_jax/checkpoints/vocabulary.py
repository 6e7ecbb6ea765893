"""Whether two tokenizers mean the same text by an id, as drafts take for granted."""

from dsi_jax.checkpoints.tokenizer import TextTokenizer


def shared_tokens(target: TextTokenizer, drafter: TextTokenizer) -> int:
    """Give the number of ids, from 0 on, that both tokenizers know and spell alike.

    One may have more than the other, such as tokens added behind the last: those are its own.

    Raises:
      ValueError: an id below stands for different tokens.
    """
    ours, theirs = ({token: text for text, token in t.backend.get_vocab().items()} for t in (target, drafter))
    shared = min(target.vocab_size, drafter.vocab_size)
    for token in range(shared):
        if ours.get(token) != theirs.get(token):
            raise ValueError(
                f"target and drafter have different tokenizers: id {token} is {ours.get(token)!r} to one and "
                f"{theirs.get(token)!r} to the other, so a draft token would mean another text; use a drafter of the "
                "target's own family, or drafter.kind=ngram"
            )
    return shared
