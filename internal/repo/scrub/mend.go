package scrub

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
)

// heal asks for objects at all who may have them.
func (s *Scrub) heal(ctx context.Context, names []string) (*repo.HealReport, error) {
	from, end := s.o.Helpers(ctx)
	defer end()
	return s.r.Heal(ctx, from, names)
}

// damaged puts an object back and reads it again.
func (s *Scrub) damaged(ctx context.Context, i item, why string) error {
	s.problems[i.name] = why
	s.mark(i, true)
	s.count(i.name, why)
	report, err := s.heal(ctx, []string{i.name})
	if err != nil {
		return err
	}
	for _, l := range report.Left {
		s.problems[i.name] = why + "; not put back: " + l.Reason
	}
	return s.again(ctx, report.Healed)
}

// again reads objects that were put back.
func (s *Scrub) again(ctx context.Context, names []string) error {
	for _, name := range names {
		proof, err := s.prover.Prove(ctx, name, nil)
		switch {
		case errors.Is(err, store.ErrNotExist):
			continue
		case err != nil:
			return err
		case proof.Bad != "":
			s.problems[name] = proof.Bad + "; it was put back, and is damaged again"
			continue
		}
		s.mark(item{name: name, size: proof.Read}, false)
		s.healed(name)
	}
	return nil
}

func (s *Scrub) healed(name string) {
	delete(s.told, name)
	s.o.Log.Info("a damaged object was put back, and is as it was stored", dr.KeyObject, name)
	s.note(func(st *Statement) {
		st.Healed++
		st.Repairs = append(st.Repairs, name)
		st.Repairs = st.Repairs[max(len(st.Repairs)-20, 0):]
	})
}

func (s *Scrub) foundAndHealed(name, why string) {
	s.count(name, why)
	s.healed(name)
}

// count tells of an object once.
func (s *Scrub) count(name, why string) {
	if _, known := s.told[name]; known {
		return
	}
	s.told[name] = struct{}{}
	s.o.Log.Error("an object is damaged", dr.KeyObject, name, "problem", why)
	s.note(func(st *Statement) { st.Found++ })
}

// survey looks whether everything is there, and puts back what is not.
func (s *Scrub) survey(ctx context.Context) error {
	began := s.used()
	from, end := s.o.Helpers(ctx)
	defer end()
	check := func() (*repo.CheckReport, error) {
		report, err := s.r.Check(ctx, repo.CheckOptions{})
		for _, p := range report.Problems {
			s.count(p.Object, p.Reason)
		}
		return report, err
	}
	report, err := check()
	if err != nil {
		return err
	}
	report, healed, err := s.r.PutBack(ctx, from, report, check)
	if err != nil {
		return err
	}
	if err := s.again(ctx, healed.Healed); err != nil {
		return err
	}
	s.surveyed = nil
	for _, p := range report.Problems {
		s.surveyed = append(s.surveyed, Damage{p.Object, p.Reason, p.SnapshotCount})
		if k := keyOf(p.Object); s.l.objects[k].size > 0 {
			s.mark(item{name: p.Object}, true)
		}
	}
	s.l.surveyed, s.l.cost, s.mended = s.o.now(), s.used()-began, s.o.now()
	if len(healed.Healed) > 0 {
		s.stale = true // it is in no listing
	}
	return nil
}

// mendAgain tries what could not be put back: another site may be back.
func (s *Scrub) mendAgain(ctx context.Context) error {
	s.mended = s.o.now()
	var names []string
	for _, p := range s.left() {
		names = append(names, p.Object)
	}
	report, err := s.heal(ctx, names)
	if err == nil {
		err = s.again(ctx, report.Healed)
	}
	if err == nil && len(report.Healed) > 0 && len(s.surveyed) > 0 {
		s.l.surveyed = time.Time{} // what came back may show what else is missing
	}
	return err
}

// left returns what stays damaged.
func (s *Scrub) left() []Damage {
	out := slices.Clone(s.surveyed)
	for _, name := range slices.Sorted(maps.Keys(s.problems)) {
		i := slices.IndexFunc(out, func(p Damage) bool { return p.Object == name })
		if i < 0 {
			out = append(out, Damage{Object: name, Reason: s.problems[name]})
		}
	}
	if out == nil {
		out = []Damage{}
	}
	return out
}
