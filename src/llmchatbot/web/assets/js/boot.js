// Runs before the first paint so that neither colours nor language flicker. A classic script: modules come too late.
(() => {
  const read = (/** @type {string} */ key) => {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage may be switched off; the page works without it
    }
  };
  const root = document.documentElement;
  const theme = read("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const wished = read("language") || navigator.language || "en";
  root.lang = wished.toLowerCase().startsWith("ru") ? "ru" : "en";
})();
