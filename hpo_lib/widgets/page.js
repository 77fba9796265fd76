// Do on the page what ipywidgets leaves out: name the handles of sliders and figures, say which
// buttons are pressed and which sliders are locked, put the focus where the kernel wants it, and
// tell the kernel how many dots of the screen a pixel has.

function nameParts(panel, figure) {
  for (const button of panel.querySelectorAll(".widget-toggle-button")) {
    set(button, { "aria-pressed": String(button.classList.contains("mod-active")) });
  }
  for (const image of panel.querySelectorAll("img.hpo-figure")) image.alt = figure;
  for (const slider of panel.querySelectorAll(".widget-hslider")) {
    const name = slider.querySelector(".widget-label").textContent;
    const value = slider.querySelector(".widget-readout").textContent;
    const isLocked = slider.querySelector(".noUi-target[disabled]") !== null;
    for (const handle of slider.querySelectorAll(".noUi-handle")) {
      const state = { "aria-valuetext": value, "aria-disabled": String(isLocked) };
      set(handle, { "aria-label": name, ...state });
    }
  }
}

function set(element, attributes) {
  for (const [attribute, text] of Object.entries(attributes)) {
    // Setting what is there already would call the observer again, without end.
    if (element.getAttribute(attribute) !== text) element.setAttribute(attribute, text);
  }
}

function focus(panel, selector, attempts = 500) {
  const control = panel.querySelector(selector);
  if (control && !control.disabled) {
    control.focus();
  } else if (attempts > 0) {
    // A new row comes to the page a little later than the message.
    setTimeout(() => focus(panel, selector, attempts - 1), 20);
  }
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that come by plain HTTP from another machine have no clipboard.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

export default {
  render({ model, el }) {
    let panel = null;
    const observer = new MutationObserver(() => name());
    const name = () => panel && nameParts(panel, model.get("figure"));
    const onMessage = (message) => {
      if (message.focus && panel) focus(panel, message.focus);
      if (message.copy) copy(message.copy);
      if (message.download) download(message.download, message.text);
    };
    const tellRatio = () => {
      model.set("ratio", window.devicePixelRatio);
      model.save_changes();
    };

    // The element is put into its panel after this function has returned.
    const begin = setInterval(() => {
      panel = el.closest(".hpo-panel");
      if (!panel) return;
      clearInterval(begin);
      name();
      observer.observe(panel, {
        subtree: true,
        childList: true,
        characterData: true,
        attributeFilter: ["aria-valuetext", "class", "disabled"],
      });
    }, 20);

    model.on("msg:custom", onMessage);
    model.on("change:figure", name);
    window.addEventListener("resize", tellRatio);
    tellRatio();
    return () => {
      clearInterval(begin);
      observer.disconnect();
      model.off("msg:custom", onMessage);
      model.off("change:figure", name);
      window.removeEventListener("resize", tellRatio);
    };
  },
};
