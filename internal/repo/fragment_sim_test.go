package repo

import (
	"cmp"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

var simTable = flag.Bool("fragmentation.table", false, "print how policies of rewriting bound fragmentation")

// simPolicy is how a simulated system stores what changes.
type simPolicy struct {
	name   string
	unit   int
	inline float64 // share of the changed pages that snapshots may store again to make chunks whole
	budget float64 // share of what snapshots have stored that is rewritten; negative: none
	bound  float64 // parts above it are rewritten
	whole  int     // chunks with so many patched pages become whole, the patches of others are gathered anew
}

const (
	simParts = 4
	simPages = simParts * partPages
)

// simDisk is a database of 512 MiB as a repository holds it: which unit each page lies in.
type simDisk struct {
	p      simPolicy
	unit   []int32 // of each page; -1: the chunk under it
	size   []int32 // of each unit
	stored float64 // pages
	ideal  float64
	earned float64
	spent  float64
	extra  float64 // spent inline

	version []int32 // of each page's content
	under   []int32 // which chunk lies under the patches
	chunks  int32
}

// copy is what a snapshot that is kept refers to.
func (d *simDisk) copy() *simDisk {
	return &simDisk{unit: slices.Clone(d.unit), version: slices.Clone(d.version), under: slices.Clone(d.under), size: d.size}
}

// kept returns how much the snapshots that are kept need, and how much they would need at least.
func kept(all []*simDisk, size []int32) (live, ideal float64) {
	units, chunks, versions := map[int32]bool{}, map[int32]bool{}, map[int64]bool{}
	for _, d := range all {
		for p, u := range d.unit {
			versions[int64(p)<<32|int64(d.version[p])] = true
			if u < 0 {
				chunks[d.under[p/chunkPages]] = true
			} else if !units[u] {
				units[u] = true
				live += float64(size[u])
			}
		}
	}
	return live + float64(len(chunks)*chunkPages), float64(len(versions))
}

func (d *simDisk) newUnits(pages []int32) {
	d.stored += float64(len(pages))
	n := 0
	full := func(from int) int { // as capture chooses it
		to := from
		for to < len(pages) && pages[to]/partPages == pages[from]/partPages {
			to++
		}
		k := n + to - from
		units := max(1, (k+d.p.unit/2)/d.p.unit)
		return max((k+units-1)/units, d.p.unit*3/4)
	}
	size := 0
	for i, p := range pages {
		if i == 0 || pages[i-1]/partPages != p/partPages {
			size = full(i)
		}
		d.unit[p] = int32(len(d.size))
		n++
		last := i == len(pages)-1 || pages[i+1]/partPages != p/partPages && n >= 8
		if n >= size || last {
			d.size, n = append(d.size, int32(n)), 0
		}
	}
}

func (d *simDisk) whole(chunk int) {
	for p := chunk * chunkPages; p < (chunk+1)*chunkPages; p++ {
		d.unit[p] = -1
	}
	d.chunks++
	d.under[chunk] = d.chunks
	d.stored += chunkPages
}

func (d *simDisk) patched(chunk int) (n int) {
	for _, u := range d.unit[chunk*chunkPages:][:chunkPages] {
		if u >= 0 {
			n++
		}
	}
	return n
}

// snapshot stores changed pages, ascending.
func (d *simDisk) snapshot(changed []int32) {
	d.ideal += float64(len(changed))
	before := d.stored
	for _, p := range changed {
		d.version[p]++
	}
	var pages []int32
	for len(changed) > 0 {
		c, n := int(changed[0])/chunkPages, 1
		for n < len(changed) && int(changed[n])/chunkPages == c {
			n++
		}
		switch had := d.patched(c); {
		case n >= chunkPages*3/4:
			d.whole(c)
		case n+had > chunkPages/2 && d.extra+float64(chunkPages-n) <= d.p.inline*d.ideal:
			d.extra += float64(chunkPages - n)
			d.whole(c)
		default:
			pages = append(pages, changed[:n]...)
		}
		changed = changed[n:]
	}
	d.newUnits(pages)
	d.earned += d.p.budget * (d.stored - before)
}

// part returns how many pages reading a part decodes, when whole units are kept from one window to the next.
func (d *simDisk) part(n int) (decoded int) {
	seen := map[int32]bool{}
	for c := n * ListLen; c < (n+1)*ListLen; c++ {
		patched := 0
		for _, u := range d.unit[c*chunkPages:][:chunkPages] {
			if u >= 0 {
				patched++
				if !seen[u] {
					seen[u] = true
					decoded += int(d.size[u])
				}
			}
		}
		if patched < chunkPages {
			decoded += chunkPages
		}
	}
	return decoded
}

func (d *simDisk) fragmentation() float64 {
	sum := 0
	for n := range simParts {
		sum += d.part(n)
	}
	return float64(sum) / simPages
}

func (d *simDisk) optimize() {
	if d.p.budget < 0 {
		return
	}
	type ranked struct {
		part int
		f    float64
	}
	var parts []ranked
	for n := range simParts {
		if f := float64(d.part(n)) / partPages; f > d.p.bound {
			parts = append(parts, ranked{n, f})
		}
	}
	slices.SortFunc(parts, func(a, b ranked) int { return cmp.Compare(b.f, a.f) })
	for _, r := range parts {
		before := d.stored
		d.rewrite(r.part)
		d.spent += d.stored - before
		if d.spent >= d.earned {
			return
		}
	}
}

func (d *simDisk) rewrite(part int) {
	chunks := make([]int, ListLen)
	for i := range chunks {
		chunks[i] = part*ListLen + i
	}
	var again []int32
	before := d.stored
	for _, c := range chunks {
		n := d.patched(c)
		if n >= d.p.whole && d.spent+d.stored-before+chunkPages <= d.earned {
			d.whole(c)
			continue
		}
		for p := c * chunkPages; p < (c+1)*chunkPages; p++ {
			if d.unit[p] >= 0 {
				again = append(again, int32(p))
			}
		}
	}
	if d.spent+d.stored-before+float64(len(again)) <= d.earned {
		d.newUnits(again)
	}
}

// TestFragmentationPolicies prints what policies make of 500 snapshots; see docs/decisions/0014.
func TestFragmentationPolicies(t *testing.T) {
	if !*simTable {
		t.Skip("it only prints a table: -fragmentation.table")
	}
	inf := math.Inf(1)
	policies := []simPolicy{
		{name: "none, unit 16", unit: 16, budget: -1},
		{name: "none, unit 32", unit: 32, budget: -1},
		{name: "none, unit 64", unit: 64, budget: -1},
		{name: "inline 10%, unit 32", unit: 32, inline: .1, budget: -1},
		{name: "budget 30%, bound 1.25", unit: 32, budget: .3, bound: 1.25, whole: 16},
		{name: "budget 30%, bound 1.35", unit: 32, budget: .3, bound: 1.35, whole: 23},
		{name: "budget 30%, bound 1.5", unit: 32, budget: .3, bound: 1.5, whole: 32},
		{name: "the same, and inline", unit: 32, inline: .1, budget: .3, bound: 1.5, whole: 32},
		{name: "budget 100%, bound 1.35", unit: 32, budget: 1, bound: 1.35, whole: 23},
		{name: "no budget, bound 1.25", unit: 32, budget: inf, bound: 1.25, whole: 16},
		{name: "no budget, bound 1.35", unit: 32, budget: inf, bound: 1.35, whole: 23},
		{name: "no budget, bound 1.5", unit: 32, budget: inf, bound: 1.5, whole: 32},
	}
	for _, skew := range []string{"uniform", "zipf"} {
		for _, share := range []float64{.001, .002, .01} {
			for _, p := range policies {
				rnd := rand.New(rand.NewPCG(1, 2))
				draw := func() int32 { return int32(rnd.IntN(simPages)) }
				if skew == "zipf" {
					place, z := rnd.Perm(simPages), rand.NewZipf(rnd, 1.1, 1, simPages-1)
					draw = func() int32 { return int32(place[z.Uint64()]) }
				}
				d := &simDisk{p: p, unit: make([]int32, simPages), stored: simPages, ideal: simPages, version: make([]int32, simPages), under: make([]int32, simPages/chunkPages), chunks: simPages / chunkPages}
				for i := range d.under {
					d.under[i] = int32(i)
				}
				var stay []*simDisk // hourly snapshots that a policy with 24 hours, 7 days, 5 weeks keeps
				for i := range d.unit {
					d.unit[i] = -1
				}
				d.earned = max(p.budget, 0) * simPages
				line, worst := "", 1.0
				for n := 1; n <= 500; n++ {
					seen := map[int32]bool{}
					for len(seen) < int(share*simPages) {
						seen[draw()] = true
					}
					var changed []int32
					for c := range seen {
						changed = append(changed, c)
					}
					slices.Sort(changed)
					d.snapshot(changed)
					d.optimize()
					if n > 476 || n > 330 && n%24 == 0 || n%168 == 0 {
						stay = append(stay, d.copy())
					}
					if n%10 == 0 {
						worst = max(worst, d.fragmentation())
					}
					if n == 50 || n == 100 || n == 250 || n == 500 {
						line += fmt.Sprintf("  %5.2f/%4.2f", d.fragmentation(), d.stored/d.ideal)
					}
				}
				live, ideal := kept(stay, d.size)
				fmt.Printf("%-8s %4.1f%%  %-24s%s  worst %.2f  retained %.2f\n", skew, share*100, p.name, line, worst, live/ideal)
			}
		}
	}
}
