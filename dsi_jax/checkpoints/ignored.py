"""Fields of a config.json that are passed over because they do not change what a model computes, each with the reason.

What is neither read nor listed here is refused by name (`config_json`): a field that nobody looked at may well say
that the model is another one.
"""

_REASONS = {
    "where the file comes from": """
        _name_or_path name_or_path _commit_hash architectures auto_map license is_llama_config tokenizer_class
        transformers.js_config transformers_version unsloth_fixed unsloth_version""",
    "how the model was trained, or would be trained on": """
        attention_dropout attention_probs_dropout_prob attn_pdrop classifier_dropout embd_pdrop gradient_checkpointing
        hidden_dropout hidden_dropout_prob initializer_range max_sequence_length pretraining_tp resid_pdrop""",
    "heads for other tasks than the next token": """
        _num_labels classifiers_size finetuning_task id2label label2id num_labels problem_type summary_activation
        summary_first_dropout summary_proj_to_labels summary_type summary_use_proj task_specific_params""",
    "what a call returns and keeps, beside the logits": """
        is_decoder output_attentions output_hidden_states output_scores return_dict return_dict_in_generate torchscript
        use_cache""",
    "which kernels compute the same numbers, and in which precision; here `dtype` is the user's choice": """
        _attn_implementation _attn_implementation_autoset _flash_attn_2_enabled attention_softmax_in_fp32
        attn_implementation cache_implementation chunk_size_feed_forward dtype inference_runner max_batch_size
        pad_key_length pre_allocate_kv_cache reorder_and_upcast_attn scale_attention_softmax_in_fp32 torch_dtype
        use_bfloat16 validate_runner_input""",
    "ids of special tokens, which the tokenizer knows; those that end a text are read with it": """
        bos_token_id decoder_start_token_id eos_token_id pad_token_id sep_token_id unk_token_id""",
    "how text is drawn, which is `Config.sampling`": """
        bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
        exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length
        max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences prefix
        remove_invalid_values repetition_penalty suppress_tokens temperature top_k top_p typical_p""",
}
IGNORED = {name: reason for reason, names in _REASONS.items() for name in names.split()}
