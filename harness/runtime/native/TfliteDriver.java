import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import org.tensorflow.lite.Interpreter;

/**
 * TensorFlow Lite's Android library as a worker, for files with a float32 input and a float32 output. Arguments: native
 * libraries to load first, in this order. Images come as (n, 3, h, w), as for all workers, and are turned where the file
 * takes (n, h, w, 3).
 */
public final class TfliteDriver implements Worker.Library {
  private final Interpreter.Options options = new Interpreter.Options();
  private Interpreter interpreter;

  public static void main(String[] libraries) throws IOException {
    // Standard output carries answers only.
    System.setOut(System.err);
    for (String library : libraries) {
      System.load(library);
    }
    Worker.serve(new TfliteDriver());
  }

  @Override
  public void setThreads(int threads) {
    options.setNumThreads(threads);
  }

  @Override
  public void load(String path) {
    interpreter = new Interpreter(new File(path), options);
    interpreter.allocateTensors();
  }

  @Override
  public Worker.Output run(FloatBuffer values, long[] shape, int calls) {
    int[] taken = interpreter.getInputTensor(0).shape();
    boolean isTurned = taken.length == 4 && taken[3] == shape[1] && taken[1] == shape[2];
    ByteBuffer input = ByteBuffer.allocateDirect(4 * values.remaining()).order(ByteOrder.nativeOrder());
    FloatBuffer images = input.asFloatBuffer();
    if (!isTurned) {
      images.put(values);
    } else {
      int channels = (int) shape[1];
      int area = (int) (shape[2] * shape[3]);
      for (int image = 0; image < shape[0]; image++) {
        for (int place = 0; place < area; place++) {
          for (int channel = 0; channel < channels; channel++) {
            images.put(values.get((image * channels + channel) * area + place));
          }
        }
      }
    }
    int[] given = interpreter.getOutputTensor(0).shape();
    ByteBuffer output = ByteBuffer.allocateDirect(interpreter.getOutputTensor(0).numBytes()).order(ByteOrder.nativeOrder());
    for (int i = 0; i < calls; i++) {
      input.rewind();
      output.rewind();
      interpreter.run(input, output);
    }
    output.rewind();
    long[] answered = new long[given.length];
    for (int i = 0; i < given.length; i++) {
      answered[i] = given[i];
    }
    return new Worker.Output(output.asFloatBuffer(), answered);
  }
}
