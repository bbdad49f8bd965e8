import com.facebook.soloader.nativeloader.NativeLoader;
import com.facebook.soloader.nativeloader.SystemDelegate;
import java.io.IOException;
import java.nio.FloatBuffer;
import org.pytorch.IValue;
import org.pytorch.LiteModuleLoader;
import org.pytorch.Module;
import org.pytorch.PyTorchAndroid;
import org.pytorch.Tensor;

/** PyTorch Mobile's Android library as a worker. Arguments: native libraries to load first, in this order. */
public final class Driver implements Worker.Library {
  private Module module;

  public static void main(String[] libraries) throws IOException {
    // Standard output carries answers only.
    System.setOut(System.err);
    NativeLoader.init(new SystemDelegate());
    for (String library : libraries) {
      System.load(library);
    }
    Worker.serve(new Driver());
  }

  @Override
  public void setThreads(int threads) {
    PyTorchAndroid.setNumThreads(threads);
  }

  @Override
  public void load(String path) {
    module = LiteModuleLoader.load(path);
  }

  @Override
  public Worker.Output run(FloatBuffer values, long[] shape, int calls) {
    IValue input = IValue.from(Tensor.fromBlob(values, shape));
    Tensor output = null;
    for (int i = 0; i < calls; i++) {
      output = module.forward(input).toTensor();
    }
    return new Worker.Output(FloatBuffer.wrap(output.getDataAsFloatArray()), output.shape());
  }
}
