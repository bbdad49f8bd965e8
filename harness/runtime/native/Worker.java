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
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;

/**
 * Runs a library for a parent process: requests on standard input, answers on standard output.
 *
 * <p>A request is one byte and its arguments: T int threads; L int length, UTF-8 path; R int calls, int n, n int sizes,
 * float32 values (little-endian): run {@code calls} times, answer with the last output; Q end. An answer is the int MAGIC,
 * a byte (0 done, 1 failed), an int length, and that many bytes: the output as it is sent in R, or the UTF-8 message. The
 * end of standard input ends the process.
 */
final class Worker {
  private static final int MAGIC = 0x55445331;

  /** A library with one loaded file. */
  interface Library {
    void setThreads(int threads) throws Exception;

    void load(String path) throws Exception;

    /** Runs {@code calls} times; {@code values} is a direct buffer in the order of this machine. */
    Output run(FloatBuffer values, long[] shape, int calls) throws Exception;
  }

  /** The values of an output, and their shape. */
  record Output(FloatBuffer values, long[] shape) {}

  private final DataInputStream in =
      new DataInputStream(new BufferedInputStream(new FileInputStream(FileDescriptor.in), 1 << 16));
  private final DataOutputStream out =
      new DataOutputStream(new BufferedOutputStream(new FileOutputStream(FileDescriptor.out), 1 << 16));
  private final Library library;

  private Worker(Library library) {
    this.library = library;
  }

  /** Answers until the end of standard input, and ends the process. */
  static void serve(Library library) throws IOException {
    new Worker(library).serve();
    // A library may keep a thread that is no daemon: leaving main would not end the process.
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
      } catch (IOException e) {
        throw e;
      } catch (Exception | LinkageError | OutOfMemoryError e) {
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

  private byte[] answer(int request) throws Exception {
    switch (request) {
      case 'T':
        library.setThreads(in.readInt());
        return new byte[0];
      case 'L':
        library.load(new String(in.readNBytes(in.readInt()), StandardCharsets.UTF_8));
        return new byte[0];
      case 'R':
        return run();
      default:
        throw new IllegalArgumentException("unknown request " + request);
    }
  }

  private byte[] run() throws Exception {
    int calls = in.readInt();
    long[] shape = new long[in.readInt()];
    int count = 1;
    for (int i = 0; i < shape.length; i++) {
      shape[i] = in.readInt();
      count *= (int) shape[i];
    }
    FloatBuffer values = ByteBuffer.allocateDirect(4 * count).order(ByteOrder.nativeOrder()).asFloatBuffer();
    values.put(ByteBuffer.wrap(in.readNBytes(4 * count)).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()).rewind();
    return encode(library.run(values, shape, calls));
  }

  private static byte[] encode(Output output) {
    ByteBuffer bytes = ByteBuffer.allocate(4 * (1 + output.shape().length + output.values().remaining()));
    bytes.putInt(output.shape().length);
    for (long size : output.shape()) {
      bytes.putInt((int) size);
    }
    bytes.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().put(output.values());
    return bytes.array();
  }
}
