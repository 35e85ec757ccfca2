package repo

import (
	"context"
	"slices"
)

// healRounds bounds how often a check looks again: what came back, such as a snapshot, or the index, shows what else is missing.
const healRounds = 4

// PutBack heals what a check has found, from what others have, and checks again while something came back. It returns the last report.
func (r *Repository) PutBack(ctx context.Context, from []*Repository, found *CheckReport, check func() (*CheckReport, error)) (*CheckReport, *HealReport, error) {
	all := &HealReport{Healed: []string{}, Left: []Left{}}
	for range healRounds {
		var names []string
		for _, p := range found.Problems {
			names = append(names, p.Object)
		}
		if len(names) == 0 {
			break
		}
		report, err := r.Heal(ctx, from, names)
		all.Healed, all.Left = append(all.Healed, report.Healed...), report.Left
		if err != nil || len(report.Healed) == 0 {
			return found, all, err
		}
		if found, err = check(); err != nil {
			return found, all, err
		}
		// With an index object, for one, comes back what it leads to.
		all.Left = slices.DeleteFunc(all.Left, func(l Left) bool {
			return !slices.ContainsFunc(found.Problems, func(p Problem) bool { return p.Object == l.Object })
		})
	}
	return found, all, nil
}
