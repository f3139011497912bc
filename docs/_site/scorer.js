// How the search ranks pages. Sphinx puts this into its own script. Decisions and notes say why: they come after pages that say how.
const BEHIND = /^(adr|notes|reference\/packages)\//;
var Scorer = {
  score: (result) => {
    const [page, , , , points] = result;
    return BEHIND.test(page) ? points - 12 : points;
  },
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};
