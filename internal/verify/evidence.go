package verify

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/evidence"
)

// Statement returns what is recorded of a test, but for its subjects.
func (r *Result) Statement() evidence.Statement {
	s := evidence.Statement{
		Kind: evidence.RestoreTest, System: r.System, Outcome: evidence.Succeeded, Started: r.Started, Finished: r.Started.Add(r.Took), Site: r.Site,
		Covered: r.Covered, NotCovered: r.NotCovered,
		Facts: []evidence.Fact{
			{Name: "snapshot", Text: string(r.Snapshot)},
			{Name: "point", Text: r.Target.String()},
			{Name: "log", Text: fmt.Sprintf("%s to %s on timeline %d", r.From, r.To, r.Timeline)},
			{Name: "depth", Text: string(r.Depth)},
			{Name: "proven", Text: string(r.Proven)},
		},
	}
	if r.Outcome == Failed {
		s.Outcome, s.Reason = evidence.Failed, fmt.Sprintf("%d problems", r.ProblemCount)
		if len(r.Problems) > 0 {
			s.Reason += "; the first is " + r.Problems[0].String()
		}
	}
	if r.Way != "" {
		s.Facts = append(s.Facts, evidence.Fact{Name: "way", Text: r.Way})
	}
	for _, a := range r.Asserted {
		text := "holds"
		if a.Left != "" {
			text = "not compared: " + a.Left
		} else if !a.Holds {
			text = "does not hold: " + a.Reason
		}
		s.Facts = append(s.Facts, evidence.Fact{Name: "assertion " + a.Name, Text: text})
	}
	f := r.Figures
	for _, n := range []struct {
		name, unit string
		value      float64
	}{
		{"size", "bytes", float64(f.Bytes)},
		{"read", "bytes", float64(f.Read)},
		{"log", "bytes", float64(f.Log)},
		{"pages", "1", float64(f.Pages)},
		{"indexes", "1", float64(f.Indexes)},
		{"tables", "1", float64(f.Tables)},
		{"problems", "1", float64(r.ProblemCount)},
		{"RTO", "s", r.RTO.Seconds()},
		{"RPO", "s", r.RPO.Seconds()},
	} {
		s.Figures = append(s.Figures, evidence.Figure{Name: n.name, Value: n.value, Unit: n.unit})
	}
	for _, p := range r.Phases {
		s.Phases = append(s.Phases, evidence.Phase{Name: p.Name, Seconds: p.Took.Seconds()})
	}
	return s
}
