"""`xxact serve`: a scan and a composition to an answer, on a page of the lab's own machine."""
