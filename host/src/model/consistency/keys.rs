//! The entries that llama.cpp reads, and the types that it demands of them: it refuses a file that
//! has another type there, or aborts.

use super::inventory::Inventory;
use super::tensors::warning;
use crate::domain::inspection::Finding;
use crate::model::finding::{Code, Findings};
use crate::model::gguf::{Metadata, Value, ValueKind};

use ValueKind::{Bool, F32, I8, I32, String as Text, U8, U16, U32};

/// What an entry must be.
#[derive(Clone, Copy)]
enum Shape {
    /// A single value of this kind.
    One(ValueKind),
    /// A single value of this kind, or a list with one for each layer.
    PerLayer(ValueKind),
    /// A single value of this kind, or a list of any length.
    OneOrMany(ValueKind),
    /// A list of one of these kinds.
    List(&'static [ValueKind]),
}
use Shape::{List, One, OneOrMany, PerLayer};

/// What llama.cpp takes as integers where it reads a list of them.
const INTEGERS: &[ValueKind] = &[U32, I32, Bool];

/// Entries that are read of every file, and a few that are always what they are. Names that begin with
/// a dot have the architecture's name before it.
const OF_ALL: [(Shape, &str); 10] = [
    (
        One(Text),
        "general.architecture general.type general.name tokenizer.ggml.model tokenizer.ggml.pre \
         tokenizer.chat_template .rope.scaling.type",
    ),
    (
        One(Bool),
        "tokenizer.ggml.add_bos_token tokenizer.ggml.add_eos_token tokenizer.ggml.add_sep_token \
         tokenizer.ggml.add_space_prefix tokenizer.ggml.remove_extra_whitespaces \
         tokenizer.ggml.normalizer.lowercase tokenizer.ggml.normalizer.strip_accents .attention.causal \
         .rope.scaling.finetuned",
    ),
    (One(U16), "split.no split.count"),
    (One(I32), "split.tensors.count"),
    (
        One(U32),
        "general.file_type general.quantization_version tokenizer.ggml.token_type_count \
         tokenizer.ggml.bos_token_id tokenizer.ggml.eos_token_id tokenizer.ggml.eot_token_id \
         tokenizer.ggml.eom_token_id tokenizer.ggml.unknown_token_id tokenizer.ggml.seperator_token_id \
         tokenizer.ggml.padding_token_id tokenizer.ggml.mask_token_id tokenizer.ggml.fim_pre_token_id \
         tokenizer.ggml.fim_suf_token_id tokenizer.ggml.fim_mid_token_id tokenizer.ggml.fim_pad_token_id \
         tokenizer.ggml.fim_rep_token_id tokenizer.ggml.fim_sep_token_id tokenizer.ggml.prefix_token_id \
         tokenizer.ggml.suffix_token_id tokenizer.ggml.middle_token_id .context_length .embedding_length \
         .embedding_length_out .block_count .vocab_size .nextn_predict_layers .expert_count .expert_group_count \
         .expert_group_used_count .pooling_type .classifier.pooling_type .attention.key_length \
         .attention.value_length .attention.key_length_swa .attention.value_length_swa .rope.dimension_count \
         .rope.dimension_count_swa .rope.scaling.original_context_length",
    ),
    (
        One(F32),
        ".attention.layer_norm_epsilon .attention.layer_norm_rms_epsilon .rope.freq_base \
         .rope.scale_linear .rope.scaling.factor .rope.scaling.alpha .rope.scaling.attn_factor",
    ),
    (
        PerLayer(U32),
        ".feed_forward_length .expert_feed_forward_length .expert_used_count .attention.head_count \
         .attention.head_count_kv",
    ),
    (
        List(&[Text]),
        "tokenizer.ggml.tokens tokenizer.ggml.merges general.tensor_extra.name .classifier.output_labels",
    ),
    (List(&[F32, I32]), "tokenizer.ggml.scores"),
    (List(&[I32]), "tokenizer.ggml.token_type tokenizer.ggml.suppress_tokens"),
];

/// Entries that are read of adapters, or for some architectures; which of these need one is in the
/// inventory.
const OF_SOME: [(Shape, &str); 12] = [
    (One(Text), "adapter.type .hidden_activation"),
    (
        One(Bool),
        ".attention.indexer.kpool_select_tail .expert_weights_norm .kda.safe_gate .skip_loop_final_norm \
         .ssm.dt_b_c_rms .swin_norm .use_parallel_residual",
    ),
    (
        One(U32),
        ".embedding_length_per_layer_input .features_length .leading_dense_block_count .attn_res.block_size \
         .expert_shared_feed_forward_length .expert_chunk_feed_forward_length .expert_shared_count \
         .expert_latent_length .expert_gating_func .experts_per_group .moe_every_n_layers .moe_latent_size \
         .interleave_moe_layer_step .n_deepstack_layers .decoder_start_token_id .decoder_block_count \
         .rescale_every_n_layers .time_mix_extra_dim .time_decay_extra_dim .token_shift_count \
         .full_attention_interval .num_loops .hyper_connection.count .hyper_connection.sinkhorn_iterations \
         .hyper_connection.low_rank .hash_layer_count .ple.ngram_size .ple.heads_per_ngram .ple.conv_kernel \
         .ple.eos_token_id .ple.image_token_id .ssm.conv_kernel .ssm.inner_size .ssm.state_size \
         .ssm.time_step_rank .ssm.group_count .kda.head_dim .wkv.head_size .shortconv.l_cache \
         .decision.block_count .dense_2_feat_in .dense_2_feat_out .dense_3_feat_in .dense_3_feat_out \
         .attention.key_length_mla .attention.value_length_mla .attention.key_length_mla_swa \
         .attention.value_length_mla_swa .attention.q_lora_rank .attention.kv_lora_rank \
         .attention.kv_lora_rank_swa .attention.decay_lora_rank .attention.iclr_lora_rank \
         .attention.value_residual_mix_lora_rank .attention.gate_lora_rank .attention.output_lora_rank \
         .attention.output_group_count .attention.relative_buckets_count .attention.sliding_window \
         .attention.shared_kv_layers .attention.temperature_length .attention.indexer.head_count \
         .attention.indexer.key_length .attention.indexer.top_k .attention.indexer.block_size \
         .attention.indexer.local_blocks .attention.indexer.kpool",
    ),
    (
        One(F32),
        "adapter.lora.alpha .activation.situ_beta .activation.situ_linear_beta .attention.max_alibi_bias .attention.clamp_kqv \
         .attention.scale .attention.output_scale .attention.value_scale .attention.temperature_scale \
         .attention.compress_rope_freq_base .expert_weights_scale .expert_group_scale .logit_scale .residual_scale \
         .embedding_scale .attn_logit_softcapping .router_logit_softcapping .final_logit_softcapping \
         .hyper_connection.epsilon .hyper_connection.magnitude .kda.gate_lower_bound .rope.freq_base_swa \
         .rope.scaling.yarn_log_multiplier .rope.scaling.yarn_ext_factor .rope.scaling.yarn_attn_factor \
         .rope.scaling.yarn_beta_fast .rope.scaling.yarn_beta_slow",
    ),
    (PerLayer(U32), ".attention.recurrent_layers"),
    (PerLayer(F32), "xielu.alpha_n xielu.alpha_p xielu.beta xielu.eps .swiglu_clamp_exp .swiglu_clamp_shexp"),
    (OneOrMany(I32), ".rope.dimension_sections"),
    (OneOrMany(U32), ".attention.sliding_window_pattern .attention.indexer.types .attention.compress_ratios"),
    (List(&[U32]), "adapter.alora.invocation_tokens"),
    (List(&[Bool]), "general.tensor_extra.prec_a4"),
    (List(&[U8, I8]), "tokenizer.ggml.precompiled_charsmap"),
    (List(INTEGERS), ".attention.rope_pattern .deepstack_mapping"),
];

impl Shape {
    /// The kinds of a single value, and of the elements of a list.
    fn kinds(self) -> (Option<ValueKind>, &'static [ValueKind]) {
        match self {
            One(kind) => (Some(kind), &[]),
            PerLayer(F32) => (Some(F32), &[F32]),
            PerLayer(kind) | OneOrMany(kind) => (Some(kind), INTEGERS),
            List(kinds) => (None, kinds),
        }
    }
}

/// Known entries that have another type than runtimes demand, or one value for each of other layers
/// than there are: faults, or warnings where it is not known that this architecture needs the entry.
pub(super) fn check(metadata: &Metadata, known: Option<&Inventory>, findings: &mut Findings) {
    let layers = metadata.hparam("block_count").and_then(Value::as_u64);
    let adapter = metadata.str("general.type") == Some("adapter");
    let needed = |name: &str| {
        (adapter && name.starts_with("adapter."))
            || known.is_some_and(|known| known.entries().any(|entry| entry == name))
    };
    let of_all = OF_ALL.iter().flat_map(words).map(|(shape, name)| (shape, name, true));
    let of_some = OF_SOME.iter().flat_map(words).map(|(shape, name)| (shape, name, needed(name)));
    for (shape, name, needed) in of_all.chain(of_some) {
        let key = match (name.starts_with('.'), metadata.architecture()) {
            (false, _) => name.to_owned(),
            (true, Some(architecture)) => format!("{architecture}{name}"),
            (true, None) => continue,
        };
        let Some(value) = metadata.get(&key) else { continue };
        if let Some(finding) = fault(&key, value, shape, layers) {
            findings.push(if needed { finding } else { warning(finding) });
        }
    }
}

fn words(row: &(Shape, &'static str)) -> impl Iterator<Item = (Shape, &'static str)> + use<> {
    let (shape, names) = *row;
    names.split_whitespace().map(move |name| (shape, name))
}

fn fault(key: &str, value: &Value, shape: Shape, layers: Option<u64>) -> Option<Finding> {
    let (one, elements) = shape.kinds();
    let (fits, got) = match value {
        Value::Array(list) => (elements.contains(&list.kind()), format!("a list of {}", list.kind().name())),
        value => (one == Some(value.kind()), value.kind().name().to_owned()),
    };
    if !fits {
        let list = elements.first().map(|kind| format!("a list of {}", kind.name()));
        let demanded: Vec<String> = one.map(|kind| kind.name().to_owned()).into_iter().chain(list).collect();
        return Some(
            Code::MetadataWrongType.finding(format!("{key} is {got}; it must be {}", demanded.join(" or "))),
        );
    }
    match (shape, value, layers) {
        (PerLayer(_), Value::Array(list), Some(layers)) if list.len() != layers => {
            let message = format!("{key} has {} values for {layers} layers", list.len());
            Some(Code::MetadataAbsurd.finding(message))
        }
        _ => None,
    }
}
