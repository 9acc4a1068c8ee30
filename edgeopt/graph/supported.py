"""Which ONNX operators can be compiled, and which versions of ONNX are read."""

from __future__ import annotations

#: Oldest and newest opset of the default domain.
MIN_OPSET = 7
MAX_OPSET = 26


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Operators that TVM compiles to loops of static shape. Anything that
#: `edgeopt.graph.handlers` does not write itself is one of these.
FALLBACK = _names("""
    Abs Acos Acosh Add ArgMax ArgMin Asin Asinh Atan Atanh AveragePool Cast Ceil Concat Conv
    ConvTranspose Cos Cosh DepthToSpace Div Einsum Erf Exp Expand Floor Gather GatherElements
    GatherND GlobalLpPool GridSample GroupNormalization Hardmax InstanceNormalization LRN
    LayerNormalization Log LogSoftmax LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min
    Mish Mod Mul PRelu Pad Pow Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Resize Round Selu Shrink Sign Sin
    Sinh Slice Softmax Softplus Softsign SpaceToDepth Sqrt Sub Sum Tan ThresholdedRelu Tile
    Trilu
    """)

#: Read by the importer itself, and never left over for TVM.
OWN = _names("""
    BatchNormalization Clip Constant DequantizeLinear Dropout Elu Flatten Gelu Gemm
    GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu Neg QLinearConv
    QLinearMatMul QuantizeLinear ReduceMean Relu Reshape Sigmoid Split Squeeze Swish Tanh Transpose
    Unsqueeze Upsample
    """)

#: Evaluated where everything they read is constant: cheap, and as large as what they read.
FOLDABLE = _names("""
    Abs Add And Cast Ceil Clip Concat ConstantOfShape Cos Div Equal Erf Exp Expand EyeLike Flatten
    Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity Less LessOrEqual Log Max
    Mean Min Mod Mul Neg Not Or Pow QuantizeLinear Range Reciprocal ReduceL2 ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum Relu Reshape Round ScatterND Shape Sigmoid Sign Sin Size Slice
    Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Trilu Unsqueeze Where Xor
    """)

SUPPORTED = FALLBACK | OWN | FOLDABLE

#: What may be handed to TVM: forms of the importer's own operators that it does not write, too.
GENERIC = (FALLBACK | OWN) - {"Constant", "Swish", "QLinearConv", "QLinearMatMul"}

#: Functions of each element on its own: any layout serves.
LAYOUT_FREE = _names("""
    Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Cos Cosh Erf Exp Floor Log Mish Reciprocal
    Round Selu Shrink Sign Sin Sinh Softplus Softsign Sqrt Tan ThresholdedRelu
    """)

#: Their result has the type of their first input, which not every version of onnx infers.
TYPE_PRESERVING = _names("GroupNormalization InstanceNormalization LRN Mish")
