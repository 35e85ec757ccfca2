package verify

import (
	"context"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/pg/figure"
	"github.com/holdfast-dr/holdfast/internal/restore/boot"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// AssertionResult is what became of one assertion.
type AssertionResult struct {
	Name     string        `json:"name"`
	Database string        `json:"database"`
	Want     string        `json:"want"`             // in words
	Got      *string       `json:"got,omitempty"`    // nil: NULL, or there is no value
	Holds    bool          `json:"holds"`            //
	Left     string        `json:"left,omitempty"`   // why nothing can be said; then Holds is false, and it is no problem
	Reason   string        `json:"reason,omitempty"` // why it does not hold
	Took     time.Duration `json:"tookNs"`
}

// comparable says of each database whose figures were recorded how many transactions the recovered server has beyond them. It has
// to be asked before anything writes.
func (t *test) comparable(ctx context.Context, s *boot.Server) (map[string]int64, error) {
	f := t.plan.Snapshot.Facts.Figures
	if f == nil || !t.opts.Depth.Includes(Query) {
		return nil, nil
	}
	beyond := map[string]int64{}
	return beyond, in(ctx, s, "postgres", func(c *pgx.Conn) error {
		for _, d := range f.Databases {
			if d.MVCC == "" {
				continue
			}
			n, err := figure.CommittedBeyond(ctx, c, d.MVCC)
			if err != nil {
				return fmt.Errorf("compare with the figures of database %s: %w", d.Database, err)
			}
			beyond[d.Database] = n
		}
		return nil
	})
}

// query asks the user's questions.
func (t *test) query(ctx context.Context, s *boot.Server, beyond map[string]int64) error {
	began := time.Now()
	held := 0
	for _, a := range t.opts.Assertions {
		r, err := t.assertion(ctx, s, a, beyond)
		if err != nil {
			return fmt.Errorf("assertion %s: %w", a.Name, err)
		}
		t.result.Asserted = append(t.result.Asserted, r)
		switch {
		case r.Left != "":
			t.result.leave("assertion %s: %s", a.Name, r.Left)
		case r.Holds:
			held++
		default:
			t.result.problem(Query, "assertion "+a.Name, "%s", r.Reason)
		}
	}
	if len(t.opts.Assertions) == 0 {
		t.result.leave("what the data means: the system has no assertions (systems.%s.verify.assertions)", t.plan.System)
	}
	t.result.phase("assertions", began)
	t.result.cover("%d of %d assertions hold", held, len(t.opts.Assertions))
	t.result.prove(Query)
	return nil
}

// assertion asks one, in a session of its own.
func (t *test) assertion(ctx context.Context, s *boot.Server, a config.Assertion, beyond map[string]int64) (AssertionResult, error) {
	out := AssertionResult{Name: a.Name, Database: a.Database, Want: want(a)}
	var recorded *figure.Answer
	if a.EqualsSource {
		if recorded, out.Left = t.recordedAnswer(a, beyond); recorded == nil {
			return out, nil
		}
	}
	began := time.Now()
	var got figure.Answer
	err := in(ctx, s, a.Database, func(c *pgx.Conn) error {
		r, err := figure.Begin(ctx, c, t.opts.Timeout)
		if err != nil {
			return err
		}
		if got, err = r.Ask(ctx, figure.Question{Name: a.Name, Database: a.Database, SQL: a.SQL, Table: a.Table}); err != nil {
			return err
		}
		return r.End(ctx)
	})
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if err != nil { // such as a database that is not there
		got.Error = err.Error()
	}
	out.Took, out.Got = time.Since(began), got.Value
	if got.Error != "" {
		out.Reason = got.Error
		return out, nil
	}
	out.Reason = judge(a, got.Value, recorded, t.moment())
	out.Holds = out.Reason == ""
	return out, nil
}

// recordedAnswer returns what the source said, or why that says nothing about the point.
func (t *test) recordedAnswer(a config.Assertion, beyond map[string]int64) (*figure.Answer, string) {
	f := t.plan.Snapshot.Facts.Figures
	if f == nil || f.Of(a.Database) == nil {
		return nil, fmt.Sprintf("snapshot %s has no figures of the source", t.plan.Snapshot.Manifest.ID)
	}
	d := f.Of(a.Database)
	for i := range d.Answers {
		switch {
		case d.Answers[i].Name != a.Name:
		case d.Answers[i].Error != "":
			return nil, "the source did not answer: " + d.Answers[i].Error
		case t.result.To < d.LSN:
			return nil, fmt.Sprintf("the figures were recorded at %s, behind this point: test it with --at recorded", d.LSN)
		case beyond[a.Database] > 0:
			return nil, fmt.Sprintf("at this point %d transactions are committed that the figures, recorded at %s, do not count: test it with --at recorded, or look again after the next snapshot", beyond[a.Database], d.LSN)
		default:
			return &d.Answers[i], ""
		}
	}
	return nil, "the source was not asked for it when the snapshot was taken"
}

// moment returns the moment that was recovered, by the source's clock.
func (t *test) moment() time.Time {
	switch t.plan.Target.Kind {
	case points.AtTime:
		return t.plan.Target.Time
	case points.Latest, "":
		return t.plan.Range.ToTime
	}
	if !t.result.NewestCommit.IsZero() {
		return t.result.NewestCommit
	}
	return t.plan.Range.FromTime
}

// want says in words what an assertion expects.
func want(a config.Assertion) string {
	switch {
	case a.EqualsSource:
		return "what the source had"
	case a.NewerThan > 0:
		return fmt.Sprintf("not older than %s", a.NewerThan)
	case a.Equals != "":
		return a.Equals
	case a.AtMost == "":
		return "at least " + a.AtLeast
	case a.AtLeast == "":
		return "at most " + a.AtMost
	}
	return "from " + a.AtLeast + " to " + a.AtMost
}

// judge says why a value is not what is expected; empty: it is.
func judge(a config.Assertion, value *string, recorded *figure.Answer, moment time.Time) string {
	if a.EqualsSource {
		switch {
		case recorded.Value == nil && value == nil:
			return ""
		case recorded.Value != nil && value != nil && *recorded.Value == *value:
			return ""
		}
		return fmt.Sprintf("it is %s, and the source had %s", shown(value), shown(recorded.Value))
	}
	if value == nil {
		return "it is NULL, and it should be " + want(a)
	}
	holds, why := true, ""
	switch {
	case a.NewerThan > 0:
		at, ok := parseTime(*value)
		if !ok {
			return fmt.Sprintf("%q is no time", *value)
		}
		age := moment.Sub(at)
		holds, why = age <= a.NewerThan, fmt.Sprintf(", %s before the moment that was recovered", age.Round(time.Second))
	case a.Equals != "":
		holds = equal(*value, a.Equals)
	default:
		n, ok := new(big.Rat).SetString(*value)
		if !ok {
			return fmt.Sprintf("%q is no number", *value)
		}
		holds = !(a.AtLeast != "" && n.Cmp(rat(a.AtLeast)) < 0) && !(a.AtMost != "" && n.Cmp(rat(a.AtMost)) > 0)
	}
	if holds {
		return ""
	}
	return fmt.Sprintf("it is %s%s, and it should be %s", *value, why, want(a))
}

// rat is for numbers that the configuration has checked.
func rat(s string) *big.Rat {
	n, ok := new(big.Rat).SetString(s)
	if !ok {
		return new(big.Rat)
	}
	return n
}

// equal compares as text, and numbers by what they are: 0 is 0.00.
func equal(a, b string) bool {
	x, ok1 := new(big.Rat).SetString(a)
	y, ok2 := new(big.Rat).SetString(b)
	return a == b || ok1 && ok2 && x.Cmp(y) == 0
}

// parseTime reads a time or a date as PostgreSQL prints it in ISO style; without a zone it is UTC.
func parseTime(s string) (time.Time, bool) {
	for _, layout := range []string{"2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

func shown(v *string) string {
	if v == nil {
		return "NULL"
	}
	return strings.TrimSpace(*v)
}
