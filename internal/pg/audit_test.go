package pg

import (
	"math"
	"testing"
)

// The chances are those of drawing without putting back: the exact ones by counting, and never less.
func TestUnseen(t *testing.T) {
	for _, c := range []struct{ unread, compared int64 }{{100, 1}, {1000, 64}, {1000, 999}, {131072, 64}, {5, 5}, {5, 0}} {
		u := (&Audit{Unread: c.unread, Compared: c.compared}).Unseen()
		for _, x := range []struct {
			name   string
			missed int64
			got    float64
			exact  bool
		}{{"one page", 1, u.Page, true}, {"a hundredth", (c.unread + 99) / 100, u.Hundredth, false}, {"a thousandth", (c.unread + 999) / 1000, u.Thousandth, false}} {
			if x.missed == 0 {
				continue
			}
			want := unseenOf(c.unread, c.compared, min(x.missed, c.unread))
			if x.exact && math.Abs(x.got-want) > 1e-12 || x.got < want-1e-12 || x.got > 1 {
				t.Errorf("%d of %d pages compared, %s: the chance is said to be %v, and is %v", c.compared, c.unread, x.name, x.got, want)
			}
		}
	}
	if u := (&Audit{Unread: 1000, Compared: 64}).Unseen(); math.Abs(u.Hundredth-0.5256) > 1e-4 || math.Abs(u.Thousandth-0.9380) > 1e-4 || math.Abs(u.Page-0.936) > 1e-9 {
		t.Errorf("64 of 1000 pages: %+v", u)
	}
	// A bound of the number of pages that is too high says too much, never too little.
	if u, more := (&Audit{Unread: 1000, Compared: 64}).Unseen(), (&Audit{Unread: 1100, Compared: 64}).Unseen(); more.Page < u.Page || more.Hundredth < u.Hundredth {
		t.Errorf("%+v of 1000 pages, %+v of 1100", u, more)
	}
	if u := (&Audit{}).Unseen(); *u != (Unseen{}) {
		t.Errorf("nothing was taken over, and there are %+v", u)
	}
	if u := (&Audit{FullScan: "it was asked for"}).Unseen(); u != nil {
		t.Errorf("a scan of everything has %+v", u)
	}
	if u := (*Audit)(nil).Unseen(); u != nil {
		t.Errorf("nothing is known, and said is %+v", u)
	}
}

// unseenOf counts: the missed pages lie at any places, all of them among those that were not compared.
func unseenOf(pages, compared, missed int64) float64 {
	p := 1.0
	for i := range missed {
		p *= math.Max(float64(pages-compared-i), 0) / float64(pages-i)
	}
	return p
}
