// Runs the script of a study's page and does what a voter does, in a stand-in for a browser: elements hold text, answer to
// events and are laid out nowhere. What it has not is an error, so markup from a prompt could not pass by unseen.
//
//   node study_voter.js ACTIONS.json
//
// ACTIONS.json: {"storage": false for a browser that keeps nothing, "actions": [["load", page], ["begin", name],
// ["answer", question, side], ["press", id], ["reload"]]}. Prints what is seen after each action.
"use strict";
const fs = require("node:fs");
const vm = require("node:vm");

class Element {
  constructor(tag, isHidden = false) {
    Object.assign(this, {tag, hidden: isHidden, disabled: false, checked: false, value: "", children: [], listeners: {}, text: ""});
    return new Proxy(this, {
      set(target, name, value) {
        if (["innerHTML", "outerHTML"].includes(name)) throw new Error(`${name} is set`);
        target[name] = value;
        return true;
      },
    });
  }
  get textContent() { return this.text + this.children.map(child => child.textContent ?? child).join(""); }
  set textContent(text) { this.text = String(text); this.children = []; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.text = ""; this.children = children; }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  fire(name) { this.listeners[name]?.({preventDefault() {}}); }
  click() { if (!this.disabled) this.fire("click"); }
  pause() {}
  play() {}
  find(tag) {
    const elements = this.children.filter(child => child instanceof Element);
    return elements.flatMap(child => child.tag === tag ? [child] : child.find(tag));
  }
}

class Browser {
  constructor(keeps) {
    Object.assign(this, {keeps, kept: new Map(), downloads: []});
  }

  load(path) {
    this.path = path;
    const html = fs.readFileSync(path, "utf8");
    const scripts = [...html.matchAll(/<script([^>]*)>([\s\S]*?)<\/script>/g)];
    const tags = html.replace(/<script[\s\S]*?<\/script>/g, "").matchAll(/<(\w+)([^>]*\bid="([\w-]+)"[^>]*)>/g);
    const found = [...tags].map(([, tag, attributes, id]) => [id, new Element(tag, /\bhidden\b/.test(attributes))]);
    this.byId = Object.fromEntries(found);
    const [[, , data], [, , code]] = scripts;
    this.byId.study = new Element("script");
    this.byId.study.textContent = data;
    const refuse = () => { if (!this.keeps) throw new Error("SecurityError"); };
    const blobs = [];
    vm.runInNewContext(code, {
      document: {
        getElementById: id => this.byId[id],
        createElement: tag => {
          const made = new Element(tag);
          if (tag === "a") made.click = () => this.downloads.push({name: made.download, text: blobs[made.href]});
          return made;
        },
      },
      localStorage: {
        getItem: key => { refuse(); return this.kept.get(key) ?? null; },
        setItem: (key, value) => { refuse(); this.kept.set(key, value); },
      },
      window: {scrollTo() {}},
      URL: {createObjectURL: blob => blobs.push(blob.parts.join("")) - 1, revokeObjectURL() {}},
      Blob: class { constructor(parts) { this.parts = parts; } },
      confirm: () => true,
      setTimeout() {},
    });
  }

  reload() { this.load(this.path); }
  press(id) { this.byId[id].click(); }

  begin(name) {
    this.byId.voter.value = name;
    this.byId.who.fire("submit");
  }

  answer(question, side) {
    const inputs = this.byId.questions.children[question].find("input");
    for (const input of inputs) input.checked = input.value === side;
    inputs.find(input => input.checked).fire("change");
  }

  seen() {
    const {byId} = this;
    const choice = label => [label.find("input")[0].value, label.textContent];
    const ballot = byId.ballot.hidden ? null : {
      where: byId.where.textContent,
      prompt: byId.prompt.textContent,
      left: byId.left.src,
      right: byId.right.src,
      photographs: byId.photographs.children.map(image => image.src),
      questions: byId.questions.children.map(field => field.find("legend")[0].textContent),
      choices: byId.questions.children.map(field => field.find("label").map(choice)),
      answers: byId.questions.children.map(field => field.find("input").find(input => input.checked)?.value ?? null),
      progress: [byId.progress.value, byId.progress.max],
      back: !byId.back.disabled,
      next: byId.next.disabled ? null : byId.next.textContent,
    };
    const shown = ["welcome", "ballot", "end"].filter(id => !byId[id].hidden);
    return {shown, ballot, told: byId.told.textContent, warned: !byId["no-storage"].hidden, downloads: [...this.downloads]};
  }
}

const {storage = true, actions} = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const browser = new Browser(storage);
const seen = actions.map(([name, ...values]) => { browser[name](...values); return browser.seen(); });
process.stdout.write(JSON.stringify(seen));
