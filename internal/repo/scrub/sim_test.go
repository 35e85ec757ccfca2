package scrub

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/dr"
)

// world is a replica without bytes: objects of sizes, that come and go, and that damage strikes.
type world struct {
	rnd     *rand.Rand
	l       *ledger
	names   []string // a map's order would make each run another
	there   map[string]int64
	written map[string]time.Time
	struck  map[string][]time.Time // not seen yet
	delays  []time.Duration        // of damage that was seen
	made    int
	plan    []item
}

func (w *world) write(now time.Time) {
	w.made++
	name := fmt.Sprint("packs/", w.made)
	w.there[name], w.written[name] = 1<<20+w.rnd.Int64N(15<<20), now
	w.names = append(w.names, name)
}

// remove removes an object.
func (w *world) remove() {
	i := w.rnd.IntN(len(w.names))
	delete(w.there, w.names[i])
	delete(w.struck, w.names[i])
	w.names = slices.Delete(w.names, i, i+1)
}

func (w *world) bytes() (n int64) {
	for _, size := range w.there {
		n += size
	}
	return n
}

// randomByte returns the object of one, each with the same chance.
func (w *world) randomByte() string {
	at := w.rnd.Int64N(w.bytes())
	for _, name := range w.names {
		if at -= w.there[name]; at < 0 {
			return name
		}
	}
	return ""
}

func (w *world) list(now time.Time, window time.Duration) {
	w.plan = nil
	there := map[key]struct{}{}
	for _, name := range w.names {
		size := w.there[name]
		k, due := w.l.take(now, window, name, size)
		there[k] = struct{}{}
		w.plan = append(w.plan, item{name: name, size: size, due: due})
	}
	w.l.sweep(there)
	w.l.listed = now
	w.plan, _ = order(w.plan, now.Add(-window/2).Unix(), 1<<50)
}

// step lets an hour pass: the budget is spent as Run does.
func (w *world) step(now time.Time, perDay float64) (read int64) {
	w.l.earn(now, perDay)
	for w.l.balance > 0 && len(w.plan) > 0 {
		i := w.plan[0]
		w.plan = w.plan[1:]
		if _, ok := w.there[i.name]; !ok {
			continue
		}
		w.l.spend(i.size)
		read += i.size
		for _, at := range w.struck[i.name] {
			w.delays = append(w.delays, now.Sub(at))
		}
		delete(w.struck, i.name)
		w.l.set(keyOf(i.name), record{size: uint32(i.size), seen: w.l.objects[keyOf(i.name)].seen, read: stamp(now)})
	}
	return read
}

// The chances that the statement tells are those of a damage process which strikes each byte with the same chance, at any time: with
// objects that are written and removed all the time, each byte is read within the window, damage of age A is unseen as often as
// is told, and it takes half a window on average until it is seen.
func TestTheArithmeticOfDamage(t *testing.T) {
	t.Parallel()
	for _, churn := range []float64{0, 0.01, 0.05} { // of the objects, a day
		t.Run(fmt.Sprint(churn), func(t *testing.T) {
			t.Parallel()
			const objects, window = 200, 20 * day
			rnd := rand.New(rand.NewPCG(7, uint64(churn*1000)))
			now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			w := &world{rnd: rnd, l: &ledger{objects: map[key]record{}, began: now}, there: map[string]int64{}, written: map[string]time.Time{}, struck: map[string][]time.Time{}}
			for range objects {
				w.write(now)
			}
			pace := dr.Daily(0.05)
			type age struct{ told, unseen, strikes float64 }
			by := make([]age, len(ages))
			late, probes, read, allowed := 0.0, 0.0, int64(0), 0.0
			for h := range 24 * 120 {
				now = now.Add(time.Hour)
				if h%24 == 0 {
					w.list(now, window)
				}
				for range objects {
					if rnd.Float64() < churn/24 {
						w.remove()
						w.write(now)
					}
				}
				perDay := pace.PerDay(w.bytes())
				read += w.step(now, perDay)
				allowed += perDay / 24
				if name := w.randomByte(); h > 24*30 {
					w.struck[name] = append(w.struck[name], now)
				}
				if h < 24*60 || h%24 != 12 {
					continue
				}
				// The ledger is in a steady state: compare what it says with strikes at the ages that it tells of.
				st := w.l.state(now, window)
				probes++
				late += float64(st.Overdue) / float64(st.Bytes)
				for i, u := range st.Unseen {
					for range 100 {
						name := w.randomByte()
						if at := now.Add(-u.Age); !w.written[name].After(at) {
							by[i].strikes++
							if int64(w.l.objects[keyOf(name)].read) <= at.Unix() {
								by[i].unseen++
							}
							by[i].told += u.Share
						}
					}
				}
			}
			if float64(read) > allowed*1.001+64<<20 {
				t.Errorf("%d bytes were read, of %.0f that are allowed", read, allowed)
			}
			for i, a := range by {
				if a.strikes == 0 {
					continue
				}
				got, told := a.unseen/a.strikes, a.told/a.strikes
				if bound := 4*math.Sqrt(0.25/a.strikes) + 0.01; math.Abs(got-told) > bound {
					t.Errorf("damage %.2f windows old: unseen with a chance of %.4f, and %.4f is told", ages[i], got, told)
				}
				// A cycle through everything: what is A old was not met in the part A/window of it.
				if ideal := 1 - ages[i]; churn == 0 && math.Abs(told-ideal) > 0.02 {
					t.Errorf("%.2f windows: %.4f is told, and a cycle gives %.4f", ages[i], told, ideal)
				}
			}
			if late > probes/50 {
				t.Errorf("%.4f of the bytes were overdue on average", late/probes)
			}
			longest, sum := time.Duration(0), time.Duration(0)
			for _, d := range w.delays {
				longest, sum = max(longest, d), sum+d
			}
			mean := sum / time.Duration(len(w.delays))
			t.Logf("%d strikes were seen after %s on average, %s at most", len(w.delays), mean, longest)
			if longest > window+2*day || churn == 0 && (mean < 9*day || mean > 11*day) {
				t.Errorf("damage was seen after %s on average, %s at most", mean, longest)
			}
		})
	}
}

// The statement counts each byte once, and says what is not known.
func TestStatement(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	ago := func(days float64) uint32 { return stamp(now.Add(-time.Duration(days * float64(day)))) }
	l := &ledger{objects: map[key]record{}, began: now.Add(-31 * day)}
	for i, x := range []record{
		{size: 100, seen: ago(30), read: ago(1)},
		{size: 200, seen: ago(30), read: ago(15)},
		{size: 300, seen: ago(5)},
		{size: 400, seen: ago(30), read: ago(25)},
		{size: 500, seen: ago(21)},
		{size: 600}, // of an unknown age
		{size: 700, seen: ago(30), read: ago(1), damaged: true},
		{size: 800, seen: ago(30), read: stamp(now.Add(day))}, // by a clock that was ahead
	} {
		l.objects[keyOf(fmt.Sprint(i))] = x
	}
	st := l.state(now, 20*day)
	if st.Objects != 8 || st.Bytes != 3600 || st.Verified != 300 || st.Young != 300 || st.Damaged != 700 || st.Overdue != 400+500+600+800 || !st.Oldest.IsZero() {
		t.Errorf("%+v", st)
	}
	// 5 days ago everything was there. Since then 100 bytes were read, and of 700 it is known that they are damaged.
	if got, want := st.Unseen[1].Share, float64(3600-100-700)/3600; math.Abs(got-want) > 1e-9 {
		t.Errorf("unseen after 5 days: %v, want %v", got, want)
	}
	// 20 days ago 300 were not there yet.
	if got, want := st.Unseen[3].Share, float64(3300-100-200-700)/3300; math.Abs(got-want) > 1e-9 {
		t.Errorf("unseen after 20 days: %v, want %v", got, want)
	}
	if !st.Late() {
		t.Error("a byte that nobody has read for 30 days is not late")
	}
	l.began = now.Add(-25 * day)
	if st := l.state(now, 20*day); st.Late() {
		t.Error("it is late although the ledger was begun lately")
	}
}

// What a pause has left undone is made good, a day of it, and no clock that is set makes it more.
func TestBudget(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	l := &ledger{}
	earn := func(d time.Duration, want float64) {
		t.Helper()
		now = now.Add(d)
		if l.earn(now, 2400); math.Abs(l.balance-want) > 0.01 {
			t.Errorf("after %s the balance is %v, want %v", d, l.balance, want)
		}
	}
	earn(0, 0)
	earn(time.Hour, 100)
	l.spend(350)
	earn(time.Hour, -150)
	if d := l.until(2400); d < 90*time.Minute || d > 92*time.Minute {
		t.Errorf("150 bytes are earned in %s", d)
	}
	earn(-5*time.Hour, -150)
	earn(time.Hour, -50)
	earn(40*day, 2350)
	earn(day, 2400)
	earn(day, 2400)
	if d := breath(100, 2400); d != 15*time.Minute {
		t.Errorf("after 100 bytes it breathes for %s", d)
	}
	l.cost, l.surveyed = 30, now
	if got := l.surveyDue(20*day, 2400).Sub(now); got != 5*day {
		t.Errorf("a cheap survey is due after %s", got)
	}
	l.cost = 2400
	if got := l.surveyDue(20*day, 2400).Sub(now); got != 8*day {
		t.Errorf("one of a day's budget is due after %s", got)
	}
	l.cost = 240_000
	if got := l.surveyDue(20*day, 2400).Sub(now); got != 20*day {
		t.Errorf("one that takes more than there is is due after %s", got)
	}
}
