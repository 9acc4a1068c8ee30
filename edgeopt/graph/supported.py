"""Which ONNX operators can be compiled, and which versions of ONNX are read."""

from __future__ import annotations

#: Oldest and newest opset of the default domain.
MIN_OPSET = 7
MAX_OPSET = 26

#: Operators that TVM's importer knows, that have one dense result of static shape, and that are
#: not control flow. Anything `edgeopt.graph.handlers` does not write itself is one of these.
FALLBACK = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization
    BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Clip Concat Conv
    ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf
    Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
    GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
    HardSwish Hardmax Identity InstanceNormalization LRN LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax LpPool MatMul MatMulInteger Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear
    RMSNormalization Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements
    ScatterND Selu Shrink Sigmoid Sign Sin Sinh Slice Softmax Softplus Softsign SpaceToDepth
    Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze
    Upsample Where Xor
    """.split()
)

#: Read by the importer itself although TVM does not know them, or evaluated while folding.
OWN = frozenset({"Constant", "ConstantOfShape", "Range", "Shape", "Size", "Swish", "EyeLike"})

SUPPORTED = FALLBACK | OWN

#: Functions of each element on its own: any layout serves.
LAYOUT_FREE = frozenset(
    """
    Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Mish Not Reciprocal Round
    Selu Shrink Sign Sin Sinh Softplus Softsign Sqrt Tan ThresholdedRelu Cast Clip Neg Celu
    """.split()
)
