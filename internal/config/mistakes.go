package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// Mistakes are all that is wrong with a file, in the order of its lines. Each begins with file:line:column.
type Mistakes []*dr.Failure

// Error returns all mistakes, one after another.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, f := range m {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the mistakes one by one.
func (m Mistakes) Unwrap() []error {
	errs := make([]error, len(m))
	for i, f := range m {
		errs[i] = f
	}
	return errs
}

var errUnknownName = errors.New("unknown name")

// IsUnknownName tells that err comes from a lookup of a name that the configuration does not declare.
func IsUnknownName(err error) bool { return errors.Is(err, errUnknownName) }

// place is a line and a column, both counted from 1.
type place struct{ line, column int }

func placeOf(n *yaml.Node) place { return place{max(n.Line, 1), max(n.Column, 1)} }

// report collects the mistakes of one file and knows where each key's value stands.
type report struct {
	file     string
	mistakes []mistake
	// places holds where the value of a key stands, by its path ("systems.orders-db.policy"), so that a check
	// of several keys can point at the right one. A key that was left out has the place of what should hold it.
	places map[string]place
}

type mistake struct {
	at      place
	failure *dr.Failure
}

// add notes a mistake at a place of the file.
func (r *report) add(at place, what, reason, next string) {
	r.mistakes = append(r.mistakes, mistake{at, &dr.Failure{
		What:   fmt.Sprintf("%s:%d:%d: %s", r.file, at.line, at.column, what),
		Reason: reason,
		Next:   next,
	}})
}

// addAt notes a mistake at the value of a key.
func (r *report) addAt(path, what, reason, next string) { r.add(r.find(path), what, reason, next) }

// find returns the place of path's value, or of the closest thing around it that is in the file.
func (r *report) find(path string) place {
	for path != "" {
		if at, ok := r.places[path]; ok {
			return at
		}
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return place{1, 1}
}

// err returns the mistakes in the order of the file's lines, or nil.
func (r *report) err() error {
	if len(r.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(r.mistakes, func(a, b mistake) int {
		return cmp.Or(cmp.Compare(a.at.line, b.at.line), cmp.Compare(a.at.column, b.at.column))
	})
	all := make(Mistakes, len(r.mistakes))
	for i, m := range r.mistakes {
		all[i] = m.failure
	}
	return all
}

// quote prints a name from outside, shortened, so that a message stays one line.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return strconv.Quote(s)
}

// listing prints names as a person would: `system "a"`, `systems "a", "b"`, `no system`.
func listing(what string, names []string) string {
	switch len(names) {
	case 0:
		return "no " + what
	case 1:
		return "the " + what + " " + quote(names[0])
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = quote(n)
	}
	return strings.TrimSuffix(what, "y") + map[bool]string{true: "ies ", false: "s "}[strings.HasSuffix(what, "y")] + strings.Join(quoted, ", ")
}
