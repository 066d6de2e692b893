// Times each exported ONNX tower on each backend that this browser has, one worker at a time, and posts what it found.
const get = (id) => document.getElementById(id);
const say = (words, bad = false) => { get('state').textContent = words; get('state').classList.toggle('bad', bad); };

async function backends() {
  const found = [{ name: 'wasm', provider: 'wasm', threads: 1 }];
  const cores = Math.min(navigator.hardwareConcurrency || 1, 4);
  if (self.crossOriginIsolated && cores > 1) found.push({ name: `wasm, ${cores} threads`, provider: 'wasm', threads: cores });
  const gpu = navigator.gpu && await navigator.gpu.requestAdapter().catch(() => null);
  if (gpu) found.push({ name: 'WebGPU', provider: 'webgpu', threads: 1, adapter: `${gpu.info?.vendor ?? ''} ${gpu.info?.architecture ?? ''}`.trim() });
  if (navigator.ml) {
    for (const deviceType of ['npu', 'gpu']) {
      const context = await navigator.ml.createContext({ deviceType }).catch(() => null);
      if (context) found.push({ name: `WebNN ${deviceType}`, provider: 'webnn', threads: 1, deviceType });
    }
  }
  return found;
}

// One worker for one backend: WebAssembly's number of threads is chosen once, when it is loaded.
function inWorker(job, backend, file) {
  return new Promise((resolve) => {
    const worker = new Worker('/worker.js', { type: 'module' });
    const end = (result) => { worker.terminate(); resolve(result); };
    worker.onmessage = (event) => end(event.data);
    worker.onerror = (event) => end({ error: event.message || 'the worker failed' });
    worker.postMessage({ job, backend, file });
  });
}

function show(file, backend, result) {
  get('table').hidden = false;
  const row = get('table').tBodies[0].insertRow();
  const middle = (share) => [...result.ms].sort((a, b) => a - b)[Math.min(result.ms.length - 1, Math.floor(share * result.ms.length))];
  const cells = result.error ? [file.name, backend.name, result.error, '', '']
    : [file.name, backend.name, middle(0.5).toFixed(2), middle(0.9).toFixed(2), result.cosine === null ? 'not compared' : result.cosine.toFixed(5)];
  for (const text of cells) row.insertCell().textContent = text;
}

async function main() {
  const job = await (await fetch('/job.json')).json();
  const found = await backends();
  get('about').textContent = navigator.userAgent;
  if (!self.isSecureContext) get('secure').textContent = 'Opened over plain HTTP from another device: browsers then allow one thread and no WebGPU. On Android, adb reverse gives both.';
  const results = [];
  const total = found.length * job.files.length;
  let done = 0;
  for (const file of job.files) {
    for (const backend of found) {
      say(`${file.name} on ${backend.name}`);
      const result = await inWorker(job, backend, file);
      show(file, backend, result);
      results.push({ folder: file.folder, tower: file.tower, backend: backend.name, threads: backend.threads, adapter: backend.adapter ?? '', ...result });
      get('bar').value = ++done / total;
    }
  }
  const about = {
    agent: navigator.userAgent, platform: navigator.userAgentData?.platform ?? navigator.platform, cores: navigator.hardwareConcurrency ?? null,
    memory_gb: navigator.deviceMemory ?? null, isolated: self.crossOriginIsolated, secure: self.isSecureContext, brands: navigator.userAgentData?.brands ?? [],
  };
  const answer = await fetch('/result', { method: 'POST', body: JSON.stringify({ about, results }) });
  if (!answer.ok) throw new Error(await answer.text());
  say('Done. The result is with the computer that asked; this page can be closed.');
  document.title = 'done';
}

main().catch((error) => { say(String(error), true); document.title = 'failed'; });
