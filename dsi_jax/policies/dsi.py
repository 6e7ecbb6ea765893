"""DSI, distributed speculative inference: the drafter and SP target servers work on one sequence at the same time.

The practical version of the paper's Algorithm 1 (section 3), for one drafter and one target. Line by line:

  lines 1-2, threads spawn children       every draft extends the sequence; `schedule` hands out its blocks
  line 3, the current verifier            the window whose predecessor is settled: `Sequence.settled - 1`
  line 3, terminate disagreeing threads   `Sequence.put`: drafts dropped, epoch ended, what is older is ignored
  line 3, the next verifier had finished  a verdict that arrived early waits in `Sequence.arrived`
  line 4, |J| + 1 = N                     `Sequence.finished`, reached by settled tokens only

The last four are no choice of a policy: they hold for whatever a schedule sends (`control/verdicts.py`).
"""

from collections.abc import Iterator

from dsi_jax.base import Job, Policy
from dsi_jax.control.work import View, draft, may_draft, no_more_drafts, verify
from dsi_jax.planning.blocks import best_blocks


def schedule(view: View) -> Iterator[Job]:
    """Keep the drafter drafting and, at the same time, every due block on a target server of its own."""
    while view.idle and block_is_due(view):
        yield verify(view)
    while may_draft(view, ahead=view.plan.draft_lead) and not (stocked(view) or view.verdict_is_near):
        yield draft(view, lacking(view))


def block_is_due(view: View) -> bool:
    """Whether what has not been fed yet should go out now, all of it as one block.

    * The last settled token has not been fed, so no window is under way that could settle the next one: as soon as
      `first` drafts wait. The paper's rule has first = 0; at the start and after a rejection this is then the
      zero-draft forward, which makes DSI never slower than non-SI.
    * `lookahead` drafts wait.
    * Fewer wait, but no more will come.
    """
    sequence, blocks = view.sequence, view.timing.blocks
    if sequence.fed < sequence.settled:
        return sequence.drafted >= blocks.first or no_more_drafts(view)
    return sequence.waiting >= blocks.lookahead or (sequence.waiting > 0 and no_more_drafts(view))


def stocked(view: View) -> bool:
    """Whether as many drafts wait for a server as are of use."""
    return view.draft_end - view.sequence.fed >= view.plan.draft_stock


def lacking(view: View) -> int:
    """How many drafts the next block still lacks, those under way counted as there; 0 or less if it has them."""
    sequence, blocks = view.sequence, view.timing.blocks
    drafted = view.draft_end - max(sequence.fed, sequence.settled)
    return (blocks.first if sequence.fed < sequence.settled else blocks.lookahead) - drafted


DSI = Policy("dsi", "DSI", "drafting and verifications overlap in time", schedule, auto=best_blocks, adapts=True)
