"""The operations by name: which rule counts each, and which only move data."""

from ctxbench.measure import _flop_rules as rules
from ctxbench.measure._flop_rules import Rule


def _aten(words: str) -> list[str]:
    return [f"aten::{word}{end}" for word in words.split() for end in ("", "_")]


_ACTIVATIONS = """
    relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid log_sigmoid tanh
    softplus hardtanh hardswish hardsigmoid threshold glu
"""
_ELEMENTWISE = """
    add sub rsub div true_divide neg reciprocal exp exp2 expm1 log log2 log10 log1p sqrt rsqrt
    square pow abs sign sin cos tan sinh cosh asin acos atan atan2 erf erfc clamp clamp_min
    clamp_max clip maximum minimum where lerp addcmul addcdiv floor ceil round trunc frac fmod
    remainder floor_divide eq ne lt le gt ge logical_and logical_or logical_not logical_xor
    bitwise_and bitwise_or bitwise_not __and__ __or__ isnan isinf isfinite nan_to_num cumsum
    cumprod outer ger cosine_similarity normalize _weight_norm
"""
_REDUCTIONS = """
    sum mean var std var_mean std_mean norm linalg_vector_norm frobenius_norm prod amax amin max
    min argmax argmin any all logsumexp count_nonzero median sort argsort topk kthvalue
"""
_POOLINGS = """
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d lp_pool1d lp_pool2d
"""
_INTERPOLATIONS = """
    upsample_nearest1d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_trilinear3d upsample_bicubic2d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_aten(_ACTIVATIONS), rules.per_output("activation")),
    **dict.fromkeys(_aten(_ELEMENTWISE), rules.per_output("elementwise")),
    **dict.fromkeys(_aten(_REDUCTIONS), rules.per_input("reduction")),
    **dict.fromkeys(_aten(_POOLINGS), rules.per_output("pooling")),
    **dict.fromkeys(_aten(_INTERPOLATIONS), rules.per_output("interpolation")),
    **dict.fromkeys(_aten("softmax log_softmax _softmax softmin"), rules.per_output("softmax")),
    **dict.fromkeys(_aten("mul multiply"), rules.product),
    "aten::relu": rules.per_output("relu"),
    "aten::relu_": rules.per_output("relu"),
    "aten::upsample_nearest2d": rules.per_output("interpolation", fvcore=1),
    "aten::upsample_bilinear2d": rules.per_output("interpolation", fvcore=4),
    "aten::grid_sampler": rules.per_output("sampling", fvcore=4),
    "aten::adaptive_avg_pool2d": rules.adaptive_pooling,
    "aten::batch_norm": rules.batch_norm,
    "aten::instance_norm": rules.norm(1),
    "aten::layer_norm": rules.norm(2),
    "aten::group_norm": rules.norm(2),
    "aten::rms_norm": rules.per_output("norm"),
    "aten::_convolution": rules.convolution,
    "torchvision::deform_conv2d": rules.deform_conv2d,
    "aten::linear": rules.matrix_product(0),
    "aten::matmul": rules.matrix_product(0),
    "aten::mm": rules.matrix_product(0),
    "aten::bmm": rules.matrix_product(0),
    "aten::mv": rules.matrix_product(0),
    "aten::dot": rules.matrix_product(0),
    "aten::vdot": rules.matrix_product(0),
    "aten::inner": rules.matrix_product(0),
    "aten::addmm": rules.matrix_product(1),
    "aten::addmv": rules.matrix_product(1),
    "aten::baddbmm": rules.matrix_product(1),
    "aten::addbmm": rules.batch_summed_product,
    "aten::bilinear": rules.bilinear,
    "aten::tensordot": rules.tensordot,
    "aten::einsum": rules.einsum,
    "aten::scaled_dot_product_attention": rules.attention,
}

MOVES = frozenset(
    _aten(
        # views, copies, reordering
        """
        view view_as reshape reshape_as permute transpose t numpy_T swapaxes movedim unsqueeze
        squeeze flatten unflatten expand expand_as broadcast_to contiguous clone detach to type_as
        copy alias slice select narrow index index_select index_put gather take_along_dim scatter
        masked_fill masked_select masked_scatter embedding cat concat stack split
        split_with_sizes tensor_split chunk unbind unsafe_chunk unsafe_split repeat
        repeat_interleave tile roll flip rot90 pad constant_pad_nd reflection_pad1d
        reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
        im2col unfold pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle tril
        triu diagonal diag diag_embed meshgrid one_hot resolve_conj resolve_neg lift_fresh
        atleast_1d atleast_2d hstack vstack dstack column_stack movedim col2im
        """
    )
    # constants, random numbers, dropout (counting runs in eval mode)
    + _aten(
        """
        zeros ones full empty rand randn arange linspace eye tensor scalar_tensor zeros_like
        ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty
        empty_strided zero fill bernoulli normal uniform dropout feature_dropout alpha_dropout
        feature_alpha_dropout bartlett_window hann_window
        """
    )
    # shapes and numbers
    + _aten(
        """
        size sym_size numel dim len Int Float Bool ScalarImplicit IntImplicit FloatImplicit item
        is_floating_point nonzero nonzero_numpy __getitem__ format warn is_nonzero
        broadcast_tensors result_type device
        """
    )
)
