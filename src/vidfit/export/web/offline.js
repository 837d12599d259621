// Registers the service worker, which makes the page work offline and with threads.

const RELOADED = "reloaded for threads";

/** @returns {Promise<boolean>} whether the page reloads: at the first visit its own headers came without the service
 *  worker, and only with those it adds may the model use threads */
export async function withServiceWorker() {
  // Browsers offer it on https and on this very machine.
  if (!navigator.serviceWorker) return false;
  try {
    await navigator.serviceWorker.register("service-worker.js");
  } catch {
    return false; // without it the page works as well, but online and on one thread
  }
  if (crossOriginIsolated || sessionStorage.getItem(RELOADED)) return false;
  await navigator.serviceWorker.ready;
  sessionStorage.setItem(RELOADED, "yes");
  location.reload();
  return true;
}
