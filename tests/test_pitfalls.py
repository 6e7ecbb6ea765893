"""Where speculative decoders have gone wrong before, and the tests that hold each of those doors shut.

Each has bitten a well-known project (vLLM, SGLang, Transformers, llama.cpp, PEARL, AMUSD, the paper's own code). The
table is checked: a test that is renamed or removed takes its row with it.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PITFALLS = {
    "the drafter's cache is rewound off by one, and the drift adds up": [
        "test_draft_server.test_the_drafter_goes_on_from_every_accept_count_like_a_fresh_one",
        "test_models.test_rollback_after_every_accept_count_equals_a_fresh_prefill",
    ],
    "all drafts accepted: the last one was never fed to the drafter": [
        "test_draft_server.test_an_oracle_drafter_is_always_accepted",
    ],
    "cache entries of rejected drafts are visible to attention": [
        "test_models.test_poisoned_slots_behind_the_length_never_show",
        "test_target_server.test_poisoned_slots_of_rejected_drafts_never_show",
    ],
    "caches that cannot roll back (sliding windows) are corrupted silently": [
        "test_huggingface.test_configs_we_cannot_follow",
    ],
    "rounds without drafts leave the drafter behind, or burn random numbers": [
        "test_draft_server.test_a_drafter_left_behind_by_rounds_without_drafts_catches_up",
        "test_schedules.test_tokens_are_the_targets_own_whatever_the_schedule",
    ],
    "cache slots leak": ["test_engine.test_a_thousand_requests_leave_nothing_behind"],
    "an EOS or a stop string inside a draft is passed over": [
        "test_engine.test_end_of_sequence_inside_a_draft",
        "test_shipped_models.test_stop_strings_end_the_text_before_them",
    ],
    "max_new_tokens is overshot, an unverified tail returned": [
        "test_engine.test_max_new_tokens_is_met_exactly",
        "test_engine.test_the_cache_may_be_filled_to_its_end",
    ],
    "forwards of different widths round differently and flip an argmax": [
        "test_models.test_rows_of_a_fixed_width_window_are_bitwise_the_same_wherever_they_stand",
        "test_target_server.test_the_cache_holds_the_same_bits_whichever_windows_wrote_it",
        "test_engine.test_the_algorithms_agree_to_the_bit",
    ],
    "the q of the acceptance test is not the q that was drawn from": [
        "test_target_server.test_rejection_verdicts_use_the_q_each_draft_was_drawn_from",
        "test_verification.test_a_q_from_before_the_warp_would_be_noticed",
    ],
    "a greedy drafter under the p/q rule, or the reverse": [
        "test_verification.test_rejection_with_certain_drafts_equals_the_target_in_distribution",
        "test_verification.test_rejection_at_temperature_zero_is_greedy_whatever_was_drafted",
    ],
    "temperature, top-k or top-p on one side only": [
        "test_verification.test_rejection_with_sampled_drafts_equals_the_target_in_distribution",
        "test_sampling.test_probabilities_equal_a_reference_by_sorting",
    ],
    "the same noise drafts and draws the residual": [
        "test_verification.test_noise_shared_with_the_drafter_would_be_noticed",
        "test_sampling.test_noise_of_roles_positions_and_seeds_is_independent",
    ],
    "seeds are ignored, shared, or advanced by discarded speculation": [
        "test_engine.test_the_same_seed_gives_the_same_tokens_and_another_seed_others",
        "test_sampling.test_a_token_depends_on_logits_seed_role_and_position_alone",
    ],
    "replicas decide differently on the same block": [
        "test_target_server.test_the_cache_holds_the_same_bits_whichever_windows_wrote_it",
        "test_engine.test_the_algorithms_agree_to_the_bit",
    ],
    "a residual of zero where p == q; epsilons; underflow accepts": [
        "test_verification.test_rejection_at_the_ends_of_the_float_range",
        "test_verification.test_rejection_where_p_and_q_differ_by_rounding_only",
    ],
    "sampled decoding that is greedy at the first or the bonus token": [
        "test_verification.test_rejection_with_sampled_drafts_equals_the_target_in_distribution",
        "test_engine.test_rejection_rule_generates_the_targets_distribution",
    ],
    "an accept mask instead of an accepted prefix": [
        "test_verification.test_coupled_accepts_a_prefix_and_not_a_mask",
        "test_target_server.test_matches_behind_a_mismatch_do_not_count",
    ],
    "token ids through float tensors": [
        "test_engine.test_token_ids_beyond_half_precision_survive",
        "test_vocabulary.test_ids_beyond_half_precision_in_unequal_tables",
    ],
    "a result of an old epoch is applied after a rollback": [
        "test_schedules.test_tokens_are_the_targets_own_whatever_the_schedule",
        "test_backend.test_threads_and_virtual_time_generate_the_same",
    ],
    "shared messages are changed, donated buffers used again": [
        "test_backend.test_messages_cannot_be_changed",
        "test_target_server.test_jobs_may_be_launched_before_the_last_one_is_waited_for",
    ],
    "a dead or hung worker hangs its parent; Ctrl-C leaves processes": [
        "test_backend.test_a_workers_failure_changes_no_token",
        "test_backend.test_a_hung_worker_is_given_up",
        "test_launch.test_a_signal_ends_a_run_and_what_was_settled_is_written",
    ],
    "an exception between two lines loses an answer, and a healthy server is called hung": [
        "test_interrupts.test_an_interrupt_at_any_moment_leaves_nothing_behind",
        "test_interrupts.test_an_interrupt_while_the_last_one_is_cleaned_up",
    ],
    "waiting for a queue with a short deadline blocks for good": [
        "test_worker.test_waiting_always_ends",
        "test_worker.test_nothing_else_waits_for_a_queue_with_a_deadline",
    ],
    "NaN or infinite logits pass through argmax as a token": [
        "test_target_server.test_logits_that_are_not_finite_are_seen_in_every_row",
        "test_target_server.test_a_target_whose_logits_are_not_finite_says_where",
        "test_draft_server.test_a_drafter_whose_logits_are_not_finite_says_where",
    ],
    "the same program, compiled twice, rounds differently on two replicas": [
        "test_exactness.test_a_replica_that_rounds_differently_is_named",
        "test_exactness.test_windows_that_round_differently_are_seen",
    ],
    "unsupported options are dropped silently": [
        "test_config.test_a_mistake_is_named_with_its_remedy",
        "test_launch.test_bad_input_ends_in_one_line_and_leaves_the_old_report",
    ],
    "benchmarks that flatter: unequal devices, sleeps called targets": [
        "test_table.test_table_compares_only_the_same_cases_on_the_same_backend",
        "test_launch.test_report_names_disjoint_devices",
    ],
    "recompilation for every accept length or prompt length": ["test_engine.test_nothing_compiles_after_warm_up"],
    "threads on several devices that do not in fact overlap": ["test_backend.test_servers_really_overlap"],
    "a slower or worse drafter than assumed makes it slower than non-SI": [
        "test_schedules.test_dsi_is_never_slower_than_non_si",
        "test_schedules.test_useless_drafts_cost_nothing_but_stale_work",
    ],
}


@pytest.mark.parametrize("pitfall", PITFALLS)
def test_every_pitfall_has_its_tests(pitfall):
    for name in PITFALLS[pitfall]:
        module, test = name.split(".")
        tree = ast.parse((TESTS / f"{module}.py").read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, name
