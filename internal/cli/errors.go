package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/dr"
)

// failure is an error as it is printed: what failed on which thing, why, and what to do next.
type failure struct {
	What   string `json:"what"`
	Reason string `json:"reason,omitempty"`
	Next   string `json:"next,omitempty"`
}

// explain takes an error apart.
func explain(err error) failure {
	var f *dr.Failure
	if !errors.As(err, &f) {
		return failure{What: err.Error(), Next: dr.Advice(err)}
	}
	// What callers put around a Failure belongs before its first line; the advice of the outermost counts.
	what := strings.Replace(err.Error(), f.Error(), f.What, 1)
	return failure{What: what, Reason: f.Reason, Next: dr.Advice(err)}
}

// printError prints err on stderr, on three lines or as one JSON object.
func (a *app) printError(err error, code int) {
	var failures []failure
	var mistakes config.Mistakes
	prefix := "holdfast: "
	if errors.As(err, &mistakes) {
		prefix = "" // each begins with its place, as compilers print it and editors find it
		for _, m := range mistakes {
			failures = append(failures, explain(m))
		}
	} else {
		failures = []failure{explain(err)}
	}
	if a.json() {
		text, err := json.Marshal(struct {
			Exit   int       `json:"exit"`
			Errors []failure `json:"errors"`
		}{code, failures})
		if err == nil {
			fmt.Fprintf(a.stderr, "%s\n", text)
			return
		}
	}
	for _, f := range failures {
		lines := dr.Failure{What: prefix + f.What, Reason: f.Reason, Next: f.Next}
		fmt.Fprintln(a.stderr, lines.Error())
	}
}
