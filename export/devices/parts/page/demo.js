// Asks this computer for the photos nearest to a sentence, and shows each model's answer in a column of its own.
const get = (id) => document.getElementById(id);
let about = null;

function column(answer) {
  const side = document.createElement('section');
  const title = document.createElement('h2');
  title.textContent = answer.model;
  const time = document.createElement('p');
  time.className = 'quiet';
  time.textContent = `${answer.ms.toFixed(1)} ms for the sentence on this computer`;
  const photos = document.createElement('div');
  photos.className = 'photos';
  for (const hit of answer.hits) {
    const figure = document.createElement('figure');
    const image = document.createElement('img');
    image.src = `/photo/${hit.photo}.jpg`;
    image.alt = about.keys[hit.photo];
    const words = document.createElement('figcaption');
    words.textContent = `${hit.cosine.toFixed(3)}  ${about.keys[hit.photo]}`;
    figure.append(image, words);
    photos.append(figure);
  }
  side.append(title, time, photos);
  return side;
}

async function search(sentence) {
  const answer = await fetch('/search', { method: 'POST', body: JSON.stringify({ sentence }) });
  if (!answer.ok) { get('state').textContent = await answer.text(); return; }
  const found = await answer.json();
  get('sides').replaceChildren(...found.map(column));
  const first = new Set(found[0].hits.map((hit) => hit.photo));
  get('state').textContent = found.length < 2 ? '' : found.slice(1).map((other) => {
    const both = other.hits.filter((hit) => first.has(hit.photo)).length;
    return `${both} of ${other.hits.length} photos are the same for ${found[0].model} and ${other.model}.`;
  }).join(' ');
  document.title = 'found';
}

async function main() {
  about = await (await fetch('/about.json')).json();
  get('about').textContent = `${about.photos} photos; ${about.models.join(', ')}.` + (about.rejected ? ` ${about.rejected} could not be read.` : '');
  get('form').addEventListener('submit', (event) => { event.preventDefault(); search(get('sentence').value); });
  const given = new URLSearchParams(location.hash.slice(1)).get('q');
  if (given) { get('sentence').value = given; await search(given); }
}

main().catch((error) => { get('state').textContent = String(error); document.title = 'failed'; });
