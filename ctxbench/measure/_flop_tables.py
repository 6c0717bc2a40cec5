"""The operations by name: which rule counts each, and which only move data."""

from ctxbench.measure import _flop_rules as rules
from ctxbench.measure._einsum import einsum
from ctxbench.measure._values import Rule


def _aten(words: str) -> list[str]:
    return [f"aten::{word}{end}" for word in words.split() for end in ("", "_")]


_ACTIVATIONS = """
    relu relu6 leaky_relu prelu rrelu elu selu celu gelu silu mish sigmoid log_sigmoid tanh
    softplus hardtanh hardswish hardsigmoid threshold glu
"""
_ELEMENTWISE = """
    add sub rsub div true_divide neg reciprocal exp exp2 expm1 log log2 log10 log1p sqrt rsqrt
    square pow abs sign sin cos tan sinh cosh asin acos atan atan2 erf erfc clamp clamp_min
    clamp_max clip maximum minimum where lerp addcdiv floor ceil round trunc frac fmod
    remainder floor_divide eq ne lt le gt ge logical_and logical_or logical_not logical_xor
    bitwise_and bitwise_or bitwise_not bitwise_xor __and__ __or__ __xor__ isnan isinf isfinite
    isclose nan_to_num sgn erfinv atanh asinh acosh logit logaddexp xlogy hypot heaviside copysign
    divide subtract greater greater_equal less less_equal not_equal absolute negative cross
    linalg_cross cumsum cumprod cummax cummin logcumsumexp diff outer ger addr kron renorm
    embedding_renorm polar _weight_norm scatter_add scatter_reduce index_add bucketize searchsorted
"""
_REDUCTIONS = """
    sum mean var std var_mean std_mean norm linalg_vector_norm frobenius_norm prod amax amin max
    min aminmax argmax argmin any all logsumexp count_nonzero median mode sort argsort topk
    kthvalue nansum nanmean nanmedian linalg_norm linalg_matrix_norm pairwise_distance trace
    bincount histc unique_dim _unique2
"""
_POOLINGS = """
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d
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
    **dict.fromkeys(_aten("softmax log_softmax _softmax"), rules.per_output("softmax")),
    **dict.fromkeys(_aten("mul multiply"), rules.product),
    **dict.fromkeys(_aten("addcmul"), rules.added_product),
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
    "aten::_convolution_mode": rules.same_convolution,
    "torchvision::deform_conv2d": rules.deform_conv2d,
    # `count` never meets these, since it counts plain forms; whoever calls them himself may
    "ctxbench::coconv2d": rules.coconv,
    "ctxbench::gated_conv2d": rules.coconv,
    "ctxbench::depthwise_conv2d": rules.coconv,
    "ctxbench::contextual_conv2d": rules.contextual_conv2d,
    "ctxbench::contmix": rules.contmix,
    "aten::linear": rules.matrix_product(0, "linear"),
    **dict.fromkeys(
        _aten("matmul mm bmm mv dot vdot inner linalg_matmul"), rules.matrix_product(0)
    ),
    **dict.fromkeys(_aten("addmm addmv baddbmm"), rules.matrix_product(1)),
    **dict.fromkeys(_aten("addbmm"), rules.batch_summed_product),
    "aten::tensordot": rules.tensordot,
    "aten::einsum": einsum,
    "aten::bilinear": rules.bilinear,
    "aten::affine_grid_generator": rules.affine_grid,
    "aten::scaled_dot_product_attention": rules.attention,
    "aten::linalg_vecdot": rules.vector_products,
    "aten::cosine_similarity": rules.vector_products,
    "aten::cdist": rules.distances,
    "aten::embedding_bag": rules.per_output("sampling"),  # weighted or not, a lookup
    "torchvision::roi_align": rules.per_output("sampling"),
    "torchvision::ps_roi_align": rules.per_output("sampling"),
    "torchvision::roi_pool": rules.per_output("pooling"),
    "torchvision::ps_roi_pool": rules.per_output("pooling"),
    "torchvision::nms": rules.per_input("reduction"),
}

_STRUCTURE = """
    prim::Constant prim::ListConstruct prim::ListUnpack prim::TupleConstruct prim::TupleUnpack
    prim::TupleIndex prim::DictConstruct prim::NumToTensor prim::GetAttr prim::device prim::dtype
    prim::layout profiler::_record_function_enter_new profiler::_record_function_exit
"""
_VIEWS_AND_COPIES = """
    view view_as reshape reshape_as permute transpose t numpy_T mT mH matrix_H adjoint swapaxes
    swapdims movedim moveaxis unsqueeze squeeze flatten unflatten ravel expand expand_as
    broadcast_to broadcast_tensors contiguous clone detach to type_as copy alias slice select narrow
    narrow_copy index index_select index_put index_fill index_copy gather take take_along_dim
    scatter masked_fill masked_select masked_scatter slice_scatter select_scatter embedding cat
    concat concatenate stack split split_with_sizes tensor_split hsplit vsplit dsplit chunk unbind
    unsafe_chunk unsafe_split unsafe_split_with_sizes repeat repeat_interleave tile roll flip fliplr
    flipud rot90 pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d
    replication_pad1d replication_pad2d replication_pad3d im2col col2im unfold as_strided
    pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle tril triu diagonal
    linalg_diagonal diag diag_embed diagflat meshgrid cartesian_prod one_hot
    resolve_conj resolve_neg conj _conj real imag complex view_as_complex view_as_real lift_fresh
    atleast_1d atleast_2d atleast_3d hstack vstack dstack column_stack block_diag
"""
# counting runs in eval mode, so dropout does nothing
_CONSTANTS_AND_RANDOM = """
    zeros ones full empty rand randn randint randperm arange linspace logspace eye tensor
    scalar_tensor zeros_like ones_like full_like empty_like rand_like randn_like randint_like
    new_zeros new_ones new_full new_empty new_empty_strided empty_strided zero fill bernoulli
    normal uniform multinomial tril_indices triu_indices dropout feature_dropout alpha_dropout
    feature_alpha_dropout bartlett_window hann_window hamming_window
"""
_SHAPES_AND_NUMBERS = """
    size sym_size numel sym_numel stride dim len Int Float Bool Complex ScalarImplicit IntImplicit
    FloatImplicit item is_floating_point is_complex nonzero nonzero_numpy __getitem__ format warn
    is_nonzero result_type device _shape_as_tensor
"""

MOVES = frozenset(
    _STRUCTURE.split()
    + _aten(_VIEWS_AND_COPIES)
    + _aten(_CONSTANTS_AND_RANDOM)
    + _aten(_SHAPES_AND_NUMBERS)
)
