"""The doors: parse a request, call an interface of core/, convert the answer."""
