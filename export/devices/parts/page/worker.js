// Runs one file on one backend: the golden sample first, whose output is compared, then the timed calls.
import * as ort from '/runtime/ort.webgpu.min.mjs';

const cosine = (a, b) => {
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) { ab += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  return ab / Math.sqrt(aa * bb);
};
const ARRAYS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

async function bytesOf(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.arrayBuffer();
}

async function main({ job, backend, file }) {
  ort.env.wasm.wasmPaths = '/runtime/';
  ort.env.wasm.numThreads = backend.threads;
  ort.env.logLevel = 'error';
  const provider = backend.provider === 'webnn' ? { name: 'webnn', deviceType: backend.deviceType } : backend.provider;
  const model = await bytesOf(file.model);
  const started = performance.now();
  const session = await ort.InferenceSession.create(model, { executionProviders: [provider] });
  const load_ms = performance.now() - started;
  const data = new ARRAYS[file.type](await bytesOf(file.input));
  const feeds = { [session.inputNames[0]]: new ort.Tensor(file.type, data, file.shape) };
  const first = (await session.run(feeds))[session.outputNames[0]];
  const got = await first.getData();
  const wanted = file.output ? new Float32Array(await bytesOf(file.output)) : null;
  if (wanted && got.length !== wanted.length) throw new Error(`${got.length} numbers for ${wanted.length}`);
  for (let i = 0; i < job.warmup_runs; i++) await (await session.run(feeds))[session.outputNames[0]].getData();
  const ms = [];
  for (let i = 0; i < job.runs; i++) {
    const start = performance.now();
    const output = await session.run(feeds);
    await output[session.outputNames[0]].getData();  // on a GPU the call is over when its numbers are here
    ms.push(performance.now() - start);
  }
  return { ms, load_ms, cosine: wanted ? cosine(got, wanted) : null, runtime: ort.env.versions?.web ?? ort.env.versions?.common ?? '' };
}

self.onmessage = (event) => main(event.data).then((result) => self.postMessage(result), (error) => self.postMessage({ error: String(error?.message ?? error).slice(0, 400) }));
