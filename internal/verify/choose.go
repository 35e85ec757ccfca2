package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/restore/points"
)

// Random is a point that Choose chooses by chance: of all moments that can be recovered each is as likely as any other.
const Random = "random"

// Recorded is the newest point for which figures of the source were recorded, so that they can be compared.
const Recorded = "recorded"

// Chosen is a point to be tested.
type Chosen struct {
	Plan   *points.Plan
	Unread []error       // snapshots that are listed and cannot be read
	Took   time.Duration // to find it
}

// Choose finds the point that at names: Random, Recorded, or what points.ParseTarget reads.
func Choose(ctx context.Context, r *repo.Repository, system, at string) (*Chosen, error) {
	began := time.Now()
	v, err := points.Load(ctx, r, system)
	if err != nil {
		return nil, err
	}
	c := &Chosen{Unread: v.Unread}
	var target points.Target
	var tl points.Timeline
	switch at {
	case Random:
		target, tl, err = randomPoint(ctx, v)
	case Recorded:
		target, err = recordedPoint(ctx, v)
	default:
		target, err = points.ParseTarget(at)
	}
	if err != nil {
		return nil, err
	}
	c.Plan, err = v.Plan(ctx, target, tl, points.RefuseLoss)
	c.Took = time.Since(began)
	return c, err
}

// randomPoint returns a moment between the first that can be recovered and the last.
func randomPoint(ctx context.Context, v *points.View) (points.Target, points.Timeline, error) {
	ranges, err := v.Ranges(ctx)
	if err != nil {
		return points.Target{}, points.Timeline{}, err
	}
	ranges = slices.DeleteFunc(ranges, func(r points.Range) bool { return !r.Usable })
	if len(ranges) == 0 {
		return points.Target{}, points.Timeline{}, &dr.Failure{
			What: fmt.Sprintf("verify %s: no moment can be recovered", v.System), Reason: "no snapshot has the log that makes it consistent",
			Next: "holdfast recovery-points " + v.System + " says what is missing",
		}
	}
	// A snapshot counts from its own moment to that of the next one: from there on another would be restored.
	type span struct {
		r    points.Range
		from time.Time
		took time.Duration
	}
	var spans []span
	var sum time.Duration
	for i, r := range ranges {
		to := r.ToTime
		if i+1 < len(ranges) && ranges[i+1].Timeline == r.Timeline && ranges[i+1].FromTime.Before(to) {
			to = ranges[i+1].FromTime
		}
		s := span{r, r.FromTime, max(to.Sub(r.FromTime), 0) + time.Millisecond}
		spans, sum = append(spans, s), sum+s.took
	}
	at, n := time.Duration(rand.Int64N(int64(sum))), 0 //nolint:gosec // a sample, no secret
	for at >= spans[n].took {
		at, n = at-spans[n].took, n+1
	}
	s := spans[n]
	t := s.from.Add(at).Truncate(time.Millisecond)
	if t.Before(s.r.FromTime) || t.After(s.r.ToTime) {
		return points.Target{Kind: points.AtLSN, LSN: s.r.From}, points.Timeline{Number: s.r.Timeline}, nil
	}
	return points.Target{Kind: points.AtTime, Time: t}, points.Timeline{Number: s.r.Timeline}, nil
}

// recordedPoint returns the newest position of recorded figures that can be recovered.
func recordedPoint(ctx context.Context, v *points.View) (points.Target, error) {
	ranges, err := v.Ranges(ctx)
	if err != nil {
		return points.Target{}, err
	}
	for _, s := range slices.Backward(v.Snapshots) {
		if s.Facts.Figures == nil || s.Facts.Figures.LSN() == 0 {
			continue
		}
		at := s.Facts.Figures.LSN()
		if slices.ContainsFunc(ranges, func(r points.Range) bool { return r.Snapshot == s.Manifest.ID && r.Usable && r.From <= at && at < r.To }) {
			return points.Target{Kind: points.AtLSN, LSN: at}, nil
		}
	}
	return points.Target{}, &dr.Failure{
		What: fmt.Sprintf("verify %s: there is no point for which figures of the source were recorded", v.System), Reason: "the agent records them with each snapshot, for assertions with equals-source",
		Next: "write such an assertion, and take a snapshot; or choose another moment with --at",
	}
}
