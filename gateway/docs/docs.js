// Makes the page from openapi.json. Everything from the document is set as
// text, never as markup.
'use strict';
(() => {
  const byId = (id) => document.getElementById(id);

  function element(tag, props = {}, ...children) {
    const e = document.createElement(tag);
    for (const [name, value] of Object.entries(props)) {
      if (name === 'class') e.className = value;
      else e.setAttribute(name, value);
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) e.append(child);
    }
    return e;
  }

  const nameOf = (ref) => ref.slice(ref.lastIndexOf('/') + 1);

  function typeText(schema) {
    if (!schema) return '';
    if (schema.$ref) return nameOf(schema.$ref);
    if (schema.oneOf) return schema.oneOf.map(typeText).join(' | ');
    if (schema.type === 'array') return typeText(schema.items) + '[]';
    let text = Array.isArray(schema.type) ? schema.type.join(' | ') : (schema.type || 'any');
    if (schema.format) text += ' <' + schema.format + '>';
    return text;
  }

  function limitsText(schema) {
    const parts = [];
    if (schema.enum) parts.push(schema.enum.map((v) => JSON.stringify(v)).join(', '));
    if (schema.minimum !== undefined || schema.maximum !== undefined) {
      parts.push((schema.minimum ?? '…') + ' to ' + (schema.maximum ?? '…'));
    }
    if (schema.minLength !== undefined || schema.maxLength !== undefined) {
      parts.push('length ' + (schema.minLength ?? 0) + ' to ' + (schema.maxLength ?? '…'));
    }
    if (schema.maxItems !== undefined) parts.push('at most ' + schema.maxItems + ' items');
    if (schema.default !== undefined) parts.push('default ' + JSON.stringify(schema.default));
    if (schema.readOnly) parts.push('read only');
    if (schema.writeOnly) parts.push('write only');
    return parts.join('; ');
  }

  // The schemas a schema refers to directly.
  function refsOf(schema, found = new Set()) {
    if (Array.isArray(schema)) schema.forEach((s) => refsOf(s, found));
    else if (schema && typeof schema === 'object') {
      for (const [key, value] of Object.entries(schema)) {
        if (key === '$ref') found.add(nameOf(value));
        else refsOf(value, found);
      }
    }
    return found;
  }

  function row(name, required, schema, description) {
    return element('tr', {},
      element('td', {}, element('code', { class: required ? 'required' : '' }, name)),
      element('td', {}, element('code', {}, typeText(schema))),
      element('td', {}, [description || schema.description || '', limitsText(schema)]
        .filter(Boolean).join(' · ')));
  }

  function members(doc, schema, trail) {
    const required = new Set(schema.required || []);
    const rows = Object.entries(schema.properties || {})
      .map(([name, s]) => row(name, required.has(name), s));
    const table = element('table', {}, rows);
    return [rows.length ? table : null, references(doc, schema, trail)];
  }

  // One fold per referenced schema; filled when it is opened.
  function references(doc, schema, trail) {
    return [...refsOf(schema)].filter((n) => !trail.includes(n)).map((name) => {
      const fold = element('details', { class: 'schema' }, element('summary', {}, name));
      fold.addEventListener('toggle', () => {
        const target = doc.components.schemas[name];
        if (fold.open && fold.children.length === 1 && target) {
          if (target.description) fold.append(element('p', {}, target.description));
          fold.append(...members(doc, target, [...trail, name]).flat().filter(Boolean));
        }
      });
      return fold;
    });
  }

  function content(doc, title, media) {
    return Object.entries(media || {}).flatMap(([type, m]) => [
      element('h3', {}, title + ' ', element('code', {}, type)),
      element('p', {}, element('code', {}, typeText(m.schema))),
      members(doc, m.schema || {}, []),
    ]).flat(2);
  }

  function curlText(doc, path, method, op) {
    const words = ['curl -k'];
    if (method !== 'get') words.push('-X ' + method.toUpperCase());
    if (!(op.security && op.security.length === 0)) words.push('-H "Authorization: Bearer $TOKEN"');
    if (op.requestBody?.content['application/json']) {
      words.push("-H 'Content-Type: application/json' -d @body.json");
    } else if (op.requestBody) {
      words.push("-F 'file=@file'");
    }
    return words.join(' ') + ' ' + location.origin + doc.servers[0].url + path;
  }

  function details(doc, path, method, op) {
    const parts = [];
    if (op.description) parts.push(element('p', {}, op.description));
    parts.push(element('p', { class: 'text' },
      'Permission: ' + op['x-permission'] + ' · served by ' + op['x-daemon']
      + (op['x-event'] ? ' · audited as ' + op['x-event'] : '')));
    if (op.parameters) {
      parts.push(element('h3', {}, 'Parameters'));
      parts.push(element('table', {}, op.parameters.map((p) =>
        row(p.name + ' (' + p.in + ')', p.required, p.schema, p.description))));
    }
    if (op.requestBody) parts.push(...content(doc, 'Request', op.requestBody.content));
    for (const [status, answer] of Object.entries(op.responses)) {
      if (status === 'default') continue;
      parts.push(...content(doc, status, answer.content));
      if (!answer.content) parts.push(element('h3', {}, status + ' without content'));
    }
    parts.push(element('h3', {}, 'Example'));
    parts.push(element('pre', {}, curlText(doc, path, method, op)));
    return parts.filter(Boolean);
  }

  function operation(doc, path, method, op) {
    const fold = element('details', { class: 'operation', id: op.operationId },
      element('summary', {},
        element('span', { class: 'method ' + method }, method.toUpperCase()),
        element('code', {}, path),
        element('span', { class: 'text' }, op.summary)));
    fold.addEventListener('toggle', () => {
      if (fold.open && fold.children.length === 1) {
        fold.append(element('div', { class: 'inside' }, details(doc, path, method, op)));
      }
    });
    return {
      fold,
      words: [method, path, op.operationId, op.summary, op['x-permission'], op.tags.join(' ')]
        .join(' ').toLowerCase(),
    };
  }

  function build(doc) {
    const sections = new Map();
    for (const [path, methods] of Object.entries(doc.paths)) {
      for (const [method, op] of Object.entries(methods)) {
        const tag = op.tags[0];
        if (!sections.has(tag)) sections.set(tag, []);
        sections.get(tag).push(operation(doc, path, method, op));
      }
    }
    const list = byId('operations');
    list.textContent = '';
    const groups = [...sections.keys()].sort().map((tag) => {
      const heading = element('h2', { id: 'tag-' + tag }, tag);
      const items = sections.get(tag);
      list.append(heading, ...items.map((i) => i.fold));
      byId('tags').append(element('a', { href: '#tag-' + tag }, tag + ' (' + items.length + ')'));
      return { heading, items };
    });
    const nothing = element('p', { class: 'hidden' }, 'No operation matches.');
    list.append(nothing);
    byId('version').textContent = doc.info.version;

    const search = byId('search');
    const filter = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const { heading, items } of groups) {
        let here = 0;
        for (const item of items) {
          const fits = words.every((w) => item.words.includes(w));
          item.fold.classList.toggle('hidden', !fits);
          here += fits;
        }
        heading.classList.toggle('hidden', here === 0);
        shown += here;
      }
      nothing.classList.toggle('hidden', shown !== 0);
    };
    search.addEventListener('input', filter);
    const open = () => {
      const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
      if (target) {
        if (target.tagName === 'DETAILS') target.open = true;
        target.scrollIntoView();
      }
    };
    window.addEventListener('hashchange', open);
    open();
  }

  fetch('/api/v1/openapi.json')
    .then((r) => (r.ok ? r.json() : Promise.reject(new Error('HTTP ' + r.status))))
    .then(build)
    .catch((e) => { byId('operations').textContent = 'openapi.json: ' + e.message; });
})();
