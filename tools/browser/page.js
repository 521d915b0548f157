// What the test looks at inside the page: when a widget shows something new, and what can't be read.
(() => {
  let acted, first, last, observer;
  const isPart = (node) => node.nodeName === "IMG" || (node.closest ?? (() => 0)).call(node, ".widget-html");
  const changed = () => requestAnimationFrame(() => {
    last = performance.now();
    first ??= last;
  });
  // the last thing a user did before the output changed
  for (const type of ["keydown", "input", "change", "click", "focusout"])
    document.addEventListener(type, () => { if (first === undefined) acted = performance.now(); }, true);

  window.watchOutput = (cell) => {
    observer?.disconnect();
    acted = first = last = undefined;
    observer = new MutationObserver((mutations) => {
      for (const { target } of mutations) {
        const node = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
        if (!node || !isPart(node)) continue;
        if (node.nodeName === "IMG") node.decode().then(changed, () => {});
        else changed();
      }
    });
    observer.observe(cell, { subtree: true, childList: true, characterData: true, attributeFilter: ["src"] });
  };
  window.outputTimes = () => ({
    last: last ? last - acted : null, quiet: last ? performance.now() - last : null,
  });

  // Texts of an element whose contrast with what is behind them is below WCAG's 4.5
  const rgba = (text) => {
    const [r, g, b, a = 1] = (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    return text.startsWith("color(srgb") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]);
  const light = (colour) => {
    const [r, g, b] = colour.map((x) => (x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  window.paleTexts = (root) => {
    const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT), pale = [];
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
      if (!text || !element.checkVisibility() || element.closest("style, script, svg, .jp-OutputPrompt")) continue;
      const layers = [];
      let opacity = 1;
      for (let node = element; node; node = node.parentElement) {
        const style = getComputedStyle(node), colour = rgba(style.backgroundColor);
        layers.unshift(colour);
        if (colour[3] < 1) opacity *= Number(style.opacity);
        else break;
      }
      const ground = layers.reduce((below, top) => over(top, below), [255, 255, 255]);
      const ink = rgba(getComputedStyle(element).color);
      const shown = over([...ink.slice(0, 3), ink[3] * opacity], ground);
      const [high, low] = [light(shown), light(ground)].sort((a, b) => b - a);
      const contrast = (high + 0.05) / (low + 0.05);
      if (contrast < 4.5) pale.push(`${contrast.toFixed(1)}: ${text.slice(0, 40)}`);
    }
    return [...new Set(pale)];
  };

  // What of an output can only be seen by scrolling sideways
  window.overflow = (element) =>
    element.scrollWidth > element.clientWidth + 1 ? [element.innerText.slice(0, 60)] : [];
})();
