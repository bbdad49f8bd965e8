import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.util.Map;

/** onnxruntime as a worker, for .onnx and .ort files with a float32 input and a float32 output. */
public final class OnnxDriver implements Worker.Library {
  private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
  private final OrtSession.SessionOptions options = new OrtSession.SessionOptions();
  private OrtSession session;
  private String input;

  public static void main(String[] arguments) throws IOException {
    // Standard output carries answers only.
    System.setOut(System.err);
    Worker.serve(new OnnxDriver());
  }

  @Override
  public void setThreads(int threads) throws OrtException {
    options.setIntraOpNumThreads(threads);
    options.setInterOpNumThreads(1);
  }

  @Override
  public void load(String path) throws OrtException {
    session = environment.createSession(path, options);
    input = session.getInputNames().iterator().next();
  }

  @Override
  public Worker.Output run(FloatBuffer values, long[] shape, int calls) throws OrtException {
    try (OnnxTensor tensor = OnnxTensor.createTensor(environment, values, shape)) {
      for (int i = 1; i < calls; i++) {
        session.run(Map.of(input, tensor)).close();
      }
      try (OrtSession.Result result = session.run(Map.of(input, tensor))) {
        OnnxTensor output = (OnnxTensor) result.get(0);
        return new Worker.Output(output.getFloatBuffer(), output.getInfo().getShape());
      }
    }
  }
}
