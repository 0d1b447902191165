"use strict";
(() => {
  const root = document.documentElement;
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  const STORED = "ifcheck-theme";

  // Storage is refused to some pages that were opened from a file or a mail.
  const stored = () => {
    try {
      return localStorage.getItem(STORED);
    } catch {
      return null;
    }
  };
  const store = (theme) => {
    try {
      localStorage.setItem(STORED, theme);
    } catch {
      // The choice then lasts as long as the page.
    }
  };

  // Before anything is painted: the page never flashes in the other theme.
  if (["light", "dark"].includes(stored())) root.dataset.theme = stored();

  const isDark = () => (root.dataset.theme ?? (systemIsDark.matches ? "dark" : "light")) === "dark";

  const makeToggle = () => {
    const button = document.getElementById("theme");
    const label = () => {
      button.textContent = isDark() ? "Light theme" : "Dark theme";
    };
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      store(root.dataset.theme);
      label();
    });
    systemIsDark.addEventListener("change", label);
    label();
    button.hidden = false;
  };

  const words = new Intl.Collator("en", { numeric: true });

  // Undefined entries have an empty key and stay last in either order.
  const compare = (first, second, isNumeric, sign) => {
    if (first === "" || second === "") return (first === "") - (second === "");
    return sign * (isNumeric ? Number(first) - Number(second) : words.compare(first, second));
  };

  const makeSortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const sortBy = (head, place) => {
      const order = head.ariaSort === "ascending" ? "descending" : "ascending";
      const sign = order === "ascending" ? 1 : -1;
      const key = ({ cells }) => {
        const { number, rank } = cells[place].dataset;
        return number ?? rank ?? cells[place].textContent.trim();
      };
      const isNumeric = head.classList.contains("numeric");
      const rows = [...body.rows].sort((a, b) => compare(key(a), key(b), isNumeric, sign));
      body.append(...rows);
      for (const other of heads) other.ariaSort = other === head ? order : "none";
    };
    heads.forEach((head, place) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sortBy(head, place));
      head.append(button);
      head.ariaSort = "none";
    });
  };

  // Paper cannot be clicked: what is folded on the screen is printed, and folded again after.
  const unfoldForPrint = () => {
    let opened = [];
    addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("details:not([open])")];
      for (const details of opened) details.open = true;
    });
    addEventListener("afterprint", () => {
      for (const details of opened) details.open = false;
    });
  };

  addEventListener("DOMContentLoaded", () => {
    makeToggle();
    document.querySelectorAll("table").forEach(makeSortable);
    unfoldForPrint();
  });
})();
