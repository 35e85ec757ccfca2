package scrub

import (
	"cmp"
	"slices"
	"time"
)

// item is an object that is there.
type item struct {
	name   string
	size   int64 // with its parity
	parity bool  // it has some
	due    int64 // seconds since 1970: the smallest is read first
}

// dueFrom returns the time by which an object is ordered: when it was last read. One that was never read comes half a window after it
// was written, the earliest that costs no more than the budget for old objects whatever is removed and written meanwhile (docs/decisions/
// 0030). What has an unknown age, or was read in the future by a clock that was wrong, comes first; what was found damaged is looked at
// again before all.
func (x record) dueFrom(now time.Time, window time.Duration) int64 {
	switch {
	case x.damaged:
		return -1
	case x.read > 0 && int64(x.read) <= now.Unix():
		return int64(x.read)
	case x.read > 0 || x.seen == 0 || int64(x.seen) > now.Unix():
		return 0
	}
	return int64(x.seen) - int64(window/2/time.Second)
}

// order sorts what is there, and keeps what may be needed before the next listing; rest tells whether there is more. What was read after
// notBefore is left out: a budget that is more than enough does not read the same bytes all the time.
func order(all []item, notBefore, enough int64) (plan []item, rest bool) {
	all = slices.DeleteFunc(all, func(i item) bool { return i.due > notBefore })
	slices.SortFunc(all, func(a, b item) int { return cmp.Or(cmp.Compare(a.due, b.due), cmp.Compare(a.name, b.name)) })
	n := 0
	for n < len(all) && enough >= 0 {
		enough -= all[n].size
		n++
	}
	return slices.Clone(all[:n]), n < len(all) // the others may go
}

// take notes what a listing says of an object, and returns its place in the order.
func (l *ledger) take(now time.Time, window time.Duration, name string, size int64) (k key, due int64) {
	k = keyOf(name)
	x, known := l.objects[k]
	if s := uint32(min(size, 1<<32-1)); !known || x.size != s {
		// It is new, or another than it was: at the earliest it was written right after the listing before.
		x = record{size: s, seen: stamp(l.listed)}
		l.set(k, x)
	}
	return k, x.dueFrom(now, window)
}

// sweep forgets what a listing no longer has.
func (l *ledger) sweep(there map[key]struct{}) {
	for k := range l.objects {
		if _, ok := there[k]; !ok {
			l.drop(k)
		}
	}
}
