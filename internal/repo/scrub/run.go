package scrub

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
	"github.com/holdfast-dr/holdfast/internal/repo"
	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/parity"
)

const (
	listEvery = day         // new objects are known so late at most
	keepEvery = time.Minute // what is read again after a crash
	doze      = time.Minute // the longest that anything is slept: the clock may be set meanwhile
	mendEvery = time.Hour   // what could not be put back is tried again
	// refusals is how many objects in a row the store may fail to give before that is told of the store.
	refusals = 3
)

// Run reads until ctx ends, or, with Options.Once, until a day's budget is spent or everything was read. An error is of the store, or
// of keys that were rotated (repo.ErrKeysRotated); it may be called again.
func (s *Scrub) Run(ctx context.Context) error {
	s.stale, s.refused = true, 0
	for ctx.Err() == nil {
		d, err := s.step(ctx)
		if errors.Is(err, errDone) {
			return s.keep()
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
		if s.o.now().Sub(s.saved) >= keepEvery || s.o.now().Before(s.saved) {
			if err := s.keep(); err != nil {
				return err
			}
		}
		if d > 0 {
			if err := s.o.wait(ctx, min(d, doze)); err != nil {
				break
			}
		}
	}
	return nil
}

var errDone = errors.New("done")

// step does the next thing, and returns how long nothing is to be done then.
func (s *Scrub) step(ctx context.Context) (time.Duration, error) {
	if s.o.Pause() {
		return doze, nil
	}
	if ours, err := s.claimed(ctx); err != nil || !ours {
		return doze, err
	}
	now := s.o.now()
	if s.stale || now.Sub(s.planned) >= listEvery || now.Before(s.planned) {
		first := s.planned.IsZero()
		if err := s.list(ctx); err != nil {
			return 0, err
		}
		if s.o.Once && first {
			s.l.balance = s.perDay()
		}
		return 0, nil
	}
	if !s.o.Once {
		s.l.earn(now, s.perDay())
		if d := s.l.until(s.perDay()); d > 0 {
			return d, nil
		}
	}
	began := s.used()
	idle, err := s.one(ctx, now)
	n := s.used() - began
	s.l.spend(n)
	s.note(func(st *Statement) { st.Read += n })
	if s.o.Once {
		return 0, err
	}
	return max(idle, breath(n, s.perDay())), err
}

// used returns how many bytes were read.
func (s *Scrub) used() int64 { return s.o.Meter.Read().Received - s.before }

func (s *Scrub) perDay() float64 { return s.o.Pace.PerDay(s.all) }

// one surveys, tries again to put something back, or reads the next object. It returns how long there is nothing to do.
func (s *Scrub) one(ctx context.Context, now time.Time) (time.Duration, error) {
	if due := s.l.surveyDue(s.o.Window, s.perDay()); !due.After(now) || s.l.surveyed.After(now) {
		before := s.l.balance
		err := s.survey(ctx)
		if s.o.Once {
			s.l.balance = before + float64(s.l.cost) // it comes on top: who reads a day's budget wants these bytes
		}
		return 0, err
	}
	if len(s.surveyed)+len(s.problems) > 0 && (now.Sub(s.mended) >= mendEvery || now.Before(s.mended)) {
		return 0, s.mendAgain(ctx)
	}
	switch {
	case s.o.Once && (s.l.balance <= 0 || len(s.plan) == 0):
		return 0, errDone
	case len(s.plan) == 0 && s.rest:
		s.stale = true
		return 0, nil
	case len(s.plan) == 0:
		return doze, s.keep() // everything was read lately
	}
	next := s.plan[0]
	s.plan = s.plan[1:]
	return 0, s.read(ctx, next)
}

// list looks what is there, and in which order it is read.
func (s *Scrub) list(ctx context.Context) error {
	now := s.o.now()
	var all []item
	var alone []string
	there := map[key]struct{}{}
	s.all = 0
	take := func(i store.Info, parity int64) error {
		if !repo.Provable(i.Name) {
			return nil
		}
		if i.Size < 0 {
			alone = append(alone, i.Name)
			return nil
		}
		size := i.Size + max(parity, 0)
		k, due := s.l.take(now, s.o.Window, i.Name, size)
		there[k] = struct{}{}
		all = append(all, item{i.Name, size, parity >= 0, due})
		s.all += size
		return nil
	}
	var err error
	if st := s.r.Store(); parity.Has(st) {
		err = parity.Each(ctx, st, take)
	} else {
		err = st.List(ctx, "", "", func(i store.Info) error { return take(i, -1) })
	}
	if err != nil {
		return err
	}
	s.l.sweep(there)
	for name := range s.problems {
		if _, ok := there[keyOf(name)]; !ok {
			delete(s.problems, name)
		}
	}
	s.l.listed = now
	notBefore := now.Add(-s.o.Window / 2).Unix()
	if s.o.Once {
		notBefore = math.MaxInt64
	}
	// More may be needed than a day's budget, after a pause.
	s.plan, s.rest = order(all, notBefore, int64(3*s.perDay()))
	s.planned, s.stale = now, false
	return s.alone(ctx, alone)
}

// alone puts back objects of which there is only parity: whoever deletes an object removes that first.
func (s *Scrub) alone(ctx context.Context, names []string) error {
	var lost []string
	for _, name := range names {
		_, err := s.r.Store().Stat(ctx, name)
		if errors.Is(err, store.ErrNotExist) {
			lost = append(lost, name)
		} else if err != nil {
			return err
		}
	}
	if len(lost) == 0 {
		return nil
	}
	report, err := s.heal(ctx, lost)
	if err != nil {
		return err
	}
	for _, name := range report.Healed { // what stays lost may never have been there: somebody died who was writing it
		s.foundAndHealed(name, "missing, and its parity is there")
	}
	return nil
}

// read reads one object.
func (s *Scrub) read(ctx context.Context, i item) error {
	has := parity.Has(s.r.Store())
	good := true
	var parityErr error
	proof, err := s.prover.Prove(ctx, i.name, func(body []byte) {
		if has {
			good, parityErr = parity.Check(ctx, s.r.Store(), i.name, body)
		}
	})
	err = errors.Join(err, parityErr)
	switch {
	case errors.Is(err, store.ErrNotExist):
		return nil // it was removed; if it should not have been, a survey finds out
	case errors.Is(err, repo.ErrKeysRotated) || ctx.Err() != nil:
		return err
	case err != nil:
		if s.refused++; s.refused >= refusals {
			return err
		}
		s.o.Log.Debug("an object cannot be read; it stays unread", dr.KeyObject, i.name, dr.KeyError, err)
		return nil
	}
	s.refused = 0
	if s.Statement().Error != "" {
		s.say("")
	}
	if proof.Bad != "" {
		return s.damaged(ctx, i, proof.Bad)
	}
	if has && !good {
		if err := parity.Mend(ctx, s.r.Store(), i.name); err != nil {
			return err
		}
		if i.parity {
			s.foundAndHealed(parityOf(i.name), "it is not that of the object")
		}
	}
	s.mark(i, false)
	return nil
}

func parityOf(name string) string { return "parity/" + name }

// mark notes that an object was read just now.
func (s *Scrub) mark(i item, damaged bool) {
	k := keyOf(i.name)
	x := s.l.objects[k]
	if x.damaged = damaged; !damaged {
		x.read = stamp(s.o.now())
		delete(s.problems, i.name)
		s.surveyed = slices.DeleteFunc(s.surveyed, func(p Damage) bool { return p.Object == i.name })
	}
	if x.size == 0 {
		x.size = uint32(min(i.size, 1<<32-1))
	}
	s.l.set(k, x)
}
