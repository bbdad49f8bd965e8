package org.udacisense.core

/** Which variants an x86 emulator answers wrongly, though a phone answers them rightly. */
object Emulator {
    /** The exporters' word, in a variant's options, that its convolutions on tiny maps are products of matrices. */
    const val OPTION = "pointwise_as_products"

    /**
     * The plain `.ptl` files of [variants] that must not be judged on [abi], the first that the system supports.
     *
     * PyTorch Mobile's x86 library computes 1×1 convolutions on maps of fewer than four places wrongly. Files for XNNPACK have kernels
     * of their own, and what names [OPTION] has no such convolution left.
     */
    fun misleading(
        variants: List<Variant>,
        abi: String
    ): List<Variant> = if (abi.startsWith("x86")) variants.filter(::isPlain) else emptyList()

    private fun isPlain(variant: Variant): Boolean = variant.format == Format.PTL && !variant.id.endsWith("xnnpack") && OPTION !in variant.options
}
