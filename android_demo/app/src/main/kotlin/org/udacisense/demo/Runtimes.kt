package org.udacisense.demo

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import kotlinx.serialization.json.JsonPrimitive
import org.pytorch.IValue
import org.pytorch.LiteModuleLoader
import org.pytorch.Module
import org.pytorch.PyTorchAndroid
import org.pytorch.Tensor
import org.tensorflow.lite.Interpreter
import org.udacisense.core.Classifier
import org.udacisense.core.Format
import org.udacisense.core.Problem
import org.udacisense.core.Runtime
import org.udacisense.core.Signature
import org.udacisense.core.Variant

/** `.ptl` files in PyTorch's lite interpreter. */
object PytorchRuntime : Runtime {
    override val formats = setOf(Format.PTL)

    override fun load(
        file: File,
        variant: Variant,
        signature: Signature,
        threads: Int
    ): Classifier {
        // Of the whole process, and before the file is loaded: the library's pool of threads is made once.
        PyTorchAndroid.setNumThreads(threads)
        return Loaded(LiteModuleLoader.load(file.path), shapeOf(signature), threads)
    }

    private class Loaded(
        private val module: Module,
        private val shape: LongArray,
        threads: Int
    ) : Classifier {
        override val actual =
            mapOf(
                "runtime" to JsonPrimitive("pytorch_android_lite"),
                "engine" to JsonPrimitive("qnnpack"),
                "threads" to JsonPrimitive(threads)
            )

        override fun run(input: FloatArray): FloatArray = module.forward(IValue.from(Tensor.fromBlob(input, shape))).toTensor().dataAsFloatArray

        override fun close() = module.destroy()
    }
}

/** `.onnx` and `.ort` files in ONNX Runtime, on the CPU. */
object OnnxRuntime : Runtime {
    override val formats = setOf(Format.ONNX, Format.ORT)

    override fun load(
        file: File,
        variant: Variant,
        signature: Signature,
        threads: Int
    ): Classifier {
        val environment = OrtEnvironment.getEnvironment()
        val session =
            OrtSession.SessionOptions().use { options ->
                options.setIntraOpNumThreads(threads)
                options.setInterOpNumThreads(1)
                // On emulators without VNNI int8 sums saturate otherwise; the desk's runner asks for the same.
                options.addConfigEntry("session.x64quantprecision", "1")
                environment.createSession(file.path, options)
            }
        return Loaded(environment, session, signature, threads)
    }

    private class Loaded(
        private val environment: OrtEnvironment,
        private val session: OrtSession,
        signature: Signature,
        threads: Int
    ) : Classifier {
        private val shape = shapeOf(signature)
        private val inputName = signature.inputName
        private val outputName = signature.outputName

        override val actual =
            mapOf(
                "runtime" to JsonPrimitive("onnxruntime"),
                "provider" to JsonPrimitive("CPUExecutionProvider"),
                "threads" to JsonPrimitive(threads)
            )

        override fun run(input: FloatArray): FloatArray =
            OnnxTensor.createTensor(environment, FloatBuffer.wrap(input), shape).use { tensor ->
                session.run(mapOf(inputName to tensor), setOf(outputName)).use { answer ->
                    val values = (answer[0] as OnnxTensor).floatBuffer
                    FloatArray(values.remaining()).also(values::get)
                }
            }

        override fun close() = session.close()
    }
}

/** `.tflite` files in TensorFlow Lite, on the CPU. They take the three channels of a place side by side. */
object TfliteRuntime : Runtime {
    override val formats = setOf(Format.TFLITE)

    override fun load(
        file: File,
        variant: Variant,
        signature: Signature,
        threads: Int
    ): Classifier {
        val interpreter = Interpreter(file, Interpreter.Options().setNumThreads(threads))
        val image = intArrayOf(signature.sizePx, signature.sizePx, 3)
        val taken = interpreter.getInputTensor(0).shape()
        if (!taken.drop(1).toIntArray().contentEquals(image)) {
            interpreter.close()
            throw Problem("${variant.id} takes ${taken.joinToString(" × ")} values, not 1 × ${image.joinToString(" × ")}. This is another model's file.")
        }
        if (taken[0] != 1) {
            interpreter.resizeInput(0, intArrayOf(1) + image)
            interpreter.allocateTensors()
        }
        return Loaded(interpreter, signature.sizePx * signature.sizePx, threads)
    }

    private class Loaded(
        private val interpreter: Interpreter,
        private val places: Int,
        threads: Int
    ) : Classifier {
        private val images = direct(3 * places * Float.SIZE_BYTES)

        override val actual =
            mapOf(
                "runtime" to JsonPrimitive("tensorflow-lite"),
                "threads" to JsonPrimitive(threads)
            )

        override fun run(input: FloatArray): FloatArray {
            images.clear()
            for (place in 0 until places) {
                for (channel in 0 until 3) images.putFloat(input[channel * places + place])
            }
            images.rewind()
            val output = direct(interpreter.getOutputTensor(0).numBytes())
            interpreter.run(images, output)
            output.rewind()
            return FloatArray(output.remaining() / Float.SIZE_BYTES).also(output.asFloatBuffer()::get)
        }

        override fun close() = interpreter.close()

        private fun direct(bytes: Int) = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
    }
}

private fun shapeOf(signature: Signature) = longArrayOf(1, 3, signature.sizePx.toLong(), signature.sizePx.toLong())
