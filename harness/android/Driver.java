import com.facebook.soloader.nativeloader.NativeLoader;
import com.facebook.soloader.nativeloader.SystemDelegate;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import org.pytorch.IValue;
import org.pytorch.LiteModuleLoader;
import org.pytorch.Module;
import org.pytorch.PyTorchAndroid;
import org.pytorch.Tensor;

/**
 * Runs PyTorch Mobile's Android library for a parent process: requests on standard input, answers on standard output.
 *
 * <p>A request is one byte and its arguments: T int threads; L int length, UTF-8 path; R int calls, int n, n int sizes,
 * float32 values (little-endian): run {@code calls} times, answer with the last output; Q end. An answer is the int MAGIC,
 * a byte (0 done, 1 failed), an int length, and that many bytes: the output as it is sent in R, or the UTF-8 message. The
 * end of standard input ends the process. Arguments: native libraries to load first, in this order.
 */
public final class Driver {
  private static final int MAGIC = 0x55445331;

  private final DataInputStream in =
      new DataInputStream(new BufferedInputStream(new FileInputStream(FileDescriptor.in), 1 << 16));
  private final DataOutputStream out =
      new DataOutputStream(new BufferedOutputStream(new FileOutputStream(FileDescriptor.out), 1 << 16));
  private Module module;

  public static void main(String[] libraries) throws IOException {
    // Standard output carries answers only.
    System.setOut(System.err);
    NativeLoader.init(new SystemDelegate());
    for (String library : libraries) {
      System.load(library);
    }
    new Driver().serve();
    // The library keeps a thread that is no daemon: leaving main would not end the process.
    Runtime.getRuntime().halt(0);
  }

  private void serve() throws IOException {
    while (true) {
      int request = in.read();
      if (request < 0 || request == 'Q') {
        return;
      }
      byte[] answer;
      int status = 0;
      try {
        answer = answer(request);
      } catch (RuntimeException | LinkageError | OutOfMemoryError e) {
        status = 1;
        answer = String.valueOf(e.getMessage()).getBytes(StandardCharsets.UTF_8);
      }
      out.writeInt(MAGIC);
      out.writeByte(status);
      out.writeInt(answer.length);
      out.write(answer);
      out.flush();
    }
  }

  private byte[] answer(int request) throws IOException {
    switch (request) {
      case 'T':
        PyTorchAndroid.setNumThreads(in.readInt());
        return new byte[0];
      case 'L':
        module = LiteModuleLoader.load(new String(in.readNBytes(in.readInt()), StandardCharsets.UTF_8));
        return new byte[0];
      case 'R':
        return run();
      default:
        throw new IllegalArgumentException("unknown request " + request);
    }
  }

  private byte[] run() throws IOException {
    int calls = in.readInt();
    long[] shape = new long[in.readInt()];
    int count = 1;
    for (int i = 0; i < shape.length; i++) {
      shape[i] = in.readInt();
      count *= (int) shape[i];
    }
    float[] values = new float[count];
    ByteBuffer.wrap(in.readNBytes(4 * count)).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values);
    IValue input = IValue.from(Tensor.fromBlob(values, shape));
    Tensor output = null;
    for (int i = 0; i < calls; i++) {
      output = module.forward(input).toTensor();
    }
    return encode(output);
  }

  private static byte[] encode(Tensor output) {
    float[] values = output.getDataAsFloatArray();
    long[] shape = output.shape();
    ByteBuffer bytes = ByteBuffer.allocate(4 * (1 + shape.length + values.length));
    bytes.putInt(shape.length);
    for (long size : shape) {
      bytes.putInt((int) size);
    }
    bytes.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().put(values);
    return bytes.array();
  }
}
