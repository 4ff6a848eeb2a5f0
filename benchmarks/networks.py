"""Networks that several benchmarks train."""

import keras
from keras import layers


def resnet20(normalization):
    """ResNet-20 (He et al., 2016, section 4.2) for 32 x 32 images of 3 channels, 10 classes; None is without normalization."""

    def convolved(x, filters, stride=1, relu=True):
        x = layers.Conv2D(filters, 3, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
        if normalization is not None:
            x = normalization()(x)
        return layers.ReLU()(x) if relu else x

    inputs = keras.Input((32, 32, 3))
    x = convolved(inputs, 16)
    for filters in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and filters > 16 else 1
            shortcut = x if stride == 1 else layers.Conv2D(filters, 1, stride, use_bias=False)(x)
            x = layers.ReLU()(layers.add([shortcut, convolved(convolved(x, filters, stride), filters, relu=False)]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))
