package storetest

import (
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Sweep is an operation on a store that is to be tried with every fault.
type Sweep struct {
	// New returns an empty store; nil is NewMemory.
	New func(t *testing.T) store.Store
	// Prepare builds what the operation starts from, undisturbed; may be nil.
	Prepare func(t *testing.T, s store.Store)
	// Run is the operation. The faults hit its calls only. It returns the operation's error and fails t only
	// for what is wrong whatever the store does.
	Run func(t *testing.T, s store.Store) error
	// Check looks at what is left, undisturbed; err is what Run returned. Here the operation is repeated, and
	// what was true before must be true still. When no fault was injected, err must be nil already.
	Check func(t *testing.T, s store.Store, err error)
	// Kind is that of the injected errors. store.Retry absorbs Busy.
	Kind store.Kind
	// Moments limits the moments of those that differ for a call; nil is all of them.
	Moments []Moment
}

// EachFault runs the sweep once undisturbed, to count the calls of Run, and then, each time on a new store, once
// for each call and moment. Each is a test of its own name, such as "007-put-after". Where Run makes its calls
// concurrently their order varies: then the nth call of each run fails, whichever it is.
func EachFault(t *testing.T, sweep Sweep) {
	t.Helper()
	var calls []Call
	ok := t.Run("undisturbed", func(t *testing.T) { calls = sweep.once(t, nil) })
	if !ok {
		t.Fatal("without a fault it fails already: no faults are tried")
	}
	if len(calls) == 0 {
		t.Fatal("the operation does not call the store: there is nothing to disturb")
	}
	for _, c := range calls {
		for _, when := range sweep.moments(c.Op) {
			t.Run(fmt.Sprintf("%03d-%s-%s", c.N, c.Op, when), func(t *testing.T) {
				sweep.once(t, &Fault{N: c.N, When: when, Kind: sweep.Kind})
			})
		}
	}
}

// moments returns the moments at which the failure of a call makes a difference.
func (w Sweep) moments(op string) []Moment {
	differ := []Moment{Before} // get and stat give nothing when they fail, whenever they do
	switch op {
	case "put", "create", "list":
		differ = []Moment{Before, Middle, After}
	case "delete":
		differ = []Moment{Before, After}
	case "range":
		differ = []Moment{Before, Middle}
	}
	return slices.DeleteFunc(differ, func(m Moment) bool { return w.Moments != nil && !slices.Contains(w.Moments, m) })
}

func (w Sweep) once(t *testing.T, fault *Fault) []Call {
	t.Helper()
	var s store.Store = NewMemory()
	if w.New != nil {
		s = w.New(t)
	}
	if w.Prepare != nil {
		w.Prepare(t, s)
	}
	f := NewFaulty(s)
	if fault != nil {
		f.SetFaults(*fault)
	}
	err := w.Run(t, f)
	calls := f.Calls()
	if fault == nil && err != nil {
		t.Errorf("undisturbed: %v", err)
	}
	if fault != nil && f.Fired() == 0 {
		t.Logf("this run made only %d calls: call %d did not come", len(calls), fault.N)
	}
	if w.Check != nil {
		w.Check(t, s, err)
	}
	if t.Failed() {
		for _, c := range calls {
			t.Log(c)
		}
	}
	return calls
}
