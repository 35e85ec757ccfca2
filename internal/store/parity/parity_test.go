package parity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-dr/holdfast/internal/store"
	"github.com/holdfast-dr/holdfast/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Conformance(t, func(*testing.T) store.Store { return Wrap(storetest.NewMemory(), 5) })
}

func content(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

var sizes = []int{0, 1, 100, blockSize - 1, blockSize, blockSize + 1, 3 * blockSize, 100_000, stripeMost * blockSize, stripeMost*blockSize + 1, 1_200_000}

// Every object is rebuilt of which no more is lost than its parity makes up for, wherever that is: a stretch, single
// blocks, the end, the parity itself.
func TestRebuild(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, size := range sizes {
		for _, percent := range []int{1, 5, 30} {
			object := content(rnd, size)
			parity, err := encode(object, percent)
			if err != nil {
				t.Fatal(err)
			}
			l := layoutOf(size, blockSize, percent)
			if len(parity) != l.length() {
				t.Fatalf("%d bytes: the parity has %d, and is to have %d", size, len(parity), l.length())
			}
			few := l.blocks // blocks in a row that no stripe has more of than it can lose
			for s := range l.stripes {
				few = min(few, l.parity(s)*l.stripes)
			}
			damages := map[string]func(object, parity []byte) ([]byte, []byte){
				"nothing": func(o, p []byte) ([]byte, []byte) { return o, p },
			}
			if size > 0 {
				damages["a stretch"] = func(o, p []byte) ([]byte, []byte) {
					at := rnd.IntN(l.blocks-few+1) * blockSize
					clear(o[at:min(at+few*blockSize, len(o))])
					return o, p
				}
				damages["a bit"] = func(o, p []byte) ([]byte, []byte) { o[rnd.IntN(len(o))] ^= 4; return o, p }
				damages["the end"] = func(o, p []byte) ([]byte, []byte) { return o[:(l.blocks-few)*blockSize], p }
				damages["more at the end"] = func(o, p []byte) ([]byte, []byte) { return append(o, 1, 2, 3), p }
				damages["parity"] = func(o, p []byte) ([]byte, []byte) { clear(p[l.head():]); return o, p }
				damages["one block, and parity of another"] = func(o, p []byte) ([]byte, []byte) {
					if l.parity(0) < 2 {
						return o, p
					}
					o[0] ^= 1
					p[l.head()] ^= 1
					return o, p
				}
			}
			for name, damage := range damages {
				o, p := damage(bytes.Clone(object), bytes.Clone(parity))
				got, err := decode(o, p)
				if err != nil || !bytes.Equal(got, object) {
					t.Errorf("%d bytes, %d percent, %s: %v", size, percent, name, err)
				}
			}
		}
	}
}

// What cannot be rebuilt is never taken for something else: too much damage, a damaged head, the parity of another object.
func TestRefused(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	object := content(rnd, 1_000_000)
	parity, err := encode(object, 5)
	if err != nil {
		t.Fatal(err)
	}
	l := layoutOf(len(object), blockSize, 5)
	tooMuch := bytes.Clone(object)
	clear(tooMuch[:(l.parity(0)*l.stripes+1)*blockSize])
	if _, err := decode(tooMuch, parity); !errors.Is(err, errLost) {
		t.Errorf("too much damage: %v", err)
	}
	if _, err := decode(content(rnd, len(object)), parity); !errors.Is(err, errLost) {
		t.Errorf("another object: %v", err)
	}
	for range 200 {
		p := bytes.Clone(parity[:l.head()])
		p[rnd.IntN(len(p))] ^= 1 << rnd.IntN(8)
		if _, err := decode(object, append(p, parity[l.head():]...)); err == nil {
			t.Fatal("a damaged head was taken")
		}
	}
	for n := range l.head() {
		if _, err := decode(object, parity[:n]); err == nil {
			t.Fatalf("%d bytes of the parity were taken", n)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, size := range []int{0, 10, 3 * blockSize} {
		object := content(rand.New(rand.NewPCG(5, 6)), size)
		p, err := encode(object, 50)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(object, p)
	}
	f.Fuzz(func(t *testing.T, object, parity []byte) {
		_, _ = decode(object, parity) // it must not panic
	})
}

// A store with parity hides it, removes it with the object, and gives damaged and, where they are small, lost objects back; Complete writes
// what lacks and removes what is too much.
func TestStore(t *testing.T) {
	t.Parallel()
	ctx, rnd, inner := t.Context(), rand.New(rand.NewPCG(7, 8)), storetest.NewMemory()
	s := Wrap(inner, 10)
	want := map[string][]byte{"a": content(rnd, 100), "packs/one": content(rnd, 300_000), "zones/x": content(rnd, 9000), "parity0": {1}}
	for name, b := range want {
		if err := s.Put(ctx, name, b); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	if err := s.List(ctx, "", "", func(i store.Info) error { names = append(names, i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(names, []string{"a", "packs/one", "parity0", "zones/x"}) || len(inner.Names()) != 8 {
		t.Errorf("the store lists %q, and has %q", names, inner.Names())
	}
	view := Rebuild(s)
	reads := func() (err error) {
		for name, b := range want {
			got, getErr := view.Get(ctx, name, maxObject)
			part := make([]byte, len(b)/2)
			rangeErr := view.GetRange(ctx, name, int64(len(b)/3), part)
			if err = errors.Join(err, getErr, rangeErr); getErr == nil && (!bytes.Equal(got, b) || !bytes.Equal(part, b[len(b)/3:][:len(b)/2])) {
				return fmt.Errorf("%s is rebuilt wrongly", name)
			}
		}
		return err
	}
	b := bytes.Clone(want["packs/one"])
	clear(b[20_000:40_000])
	err := errors.Join(inner.Put(ctx, "packs/one", b), inner.Delete(ctx, "a"), inner.Put(ctx, "zones/x", want["zones/x"][:5000]), reads())
	if err != nil {
		t.Error(err)
	}
	if err := view.Put(ctx, "b", nil); store.KindOf(err) != store.Denied {
		t.Errorf("the view writes: %v", err)
	}

	err = errors.Join(s.Put(ctx, "a", want["a"]), s.Put(ctx, "packs/one", want["packs/one"]), s.Put(ctx, "zones/x", want["zones/x"]),
		inner.Delete(ctx, "parity/a"), inner.Put(ctx, "parity/zones/x", []byte("cut")), inner.Put(ctx, "parity/gone", nil), inner.Put(ctx, "new", want["a"]))
	rotten, getErr := inner.Get(ctx, "parity/packs/one", maxObject)
	if err = errors.Join(err, getErr); err != nil {
		t.Fatal(err)
	}
	rotten[len(rotten)-1] ^= 1
	if err := inner.Put(ctx, "parity/packs/one", rotten); err != nil {
		t.Fatal(err)
	}
	if n, err := Lacking(ctx, s); n != 2 || err != nil {
		t.Errorf("%d objects lack parity, 2 do (%v)", n, err)
	}
	for i, want := range []Completion{{Written: 3, Removed: 0}, {Written: 1, Removed: 1}, {}} {
		got, err := Complete(ctx, s, func(name string) bool { return i == 0 && name == "new" }, i == 0)
		if got.Bytes = 0; err != nil || got != want {
			t.Errorf("run %d: completed %+v, want %+v (%v)", i, got, want, err)
		}
	}
	view = Rebuild(s)
	if err := reads(); err != nil {
		t.Error(err)
	}
	for name := range want {
		if err := s.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if left := inner.Names(); len(left) != 2 { // new, and its parity
		t.Errorf("%q are left", left)
	}
}

// scratched is a store on a disk that refuses whatever holds one of its bytes.
type scratched struct {
	store.Store
	name string
	at   int64
}

func (s *scratched) Get(ctx context.Context, name string, most int64) ([]byte, error) {
	if name == s.name {
		return nil, &store.Error{Op: "get", Name: name, Store: s.String(), Kind: store.Damaged, Err: errors.New("input/output error")}
	}
	return s.Store.Get(ctx, name, most)
}

func (s *scratched) GetRange(ctx context.Context, name string, off int64, dst []byte) error {
	if name == s.name && off <= s.at && s.at < off+int64(len(dst)) {
		_, err := s.Get(ctx, name, 0)
		return err
	}
	return s.Store.GetRange(ctx, name, off, dst)
}

// A sector that the disk does not give back is one block that is lost.
func TestSectors(t *testing.T) {
	t.Parallel()
	inner, want := storetest.NewMemory(), content(rand.New(rand.NewPCG(11, 12)), 200_001)
	if err := Wrap(inner, 5).Put(t.Context(), "one", want); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 100_000, 200_000} {
		got, err := Rebuild(&scratched{inner, "one", at}).Get(t.Context(), "one", maxObject)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("byte %d cannot be read: %v", at, err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	object := content(rand.New(rand.NewPCG(9, 9)), 16<<20)
	b.SetBytes(int64(len(object)))
	for b.Loop() {
		if _, err := encode(object, 5); err != nil {
			b.Fatal(err)
		}
	}
}

// Parity that has lost a bit, or is of other bytes, is told from what is as it was written, and made again.
func TestCheckAndMend(t *testing.T) {
	ctx, bare := t.Context(), storetest.NewMemory()
	s := Wrap(bare, 5)
	object := bytes.Repeat([]byte("some bytes of an object; "), 4000)
	if err := s.Put(ctx, "a/b", object); err != nil {
		t.Fatal(err)
	}
	written, err := bare.Get(ctx, prefix+"a/b", maxObject)
	if err != nil {
		t.Fatal(err)
	}
	check := func(want bool, body []byte) {
		t.Helper()
		if good, err := Check(ctx, s, "a/b", body); err != nil || good != want {
			t.Errorf("good: %v, %v; want %v", good, err, want)
		}
	}
	check(true, object)
	check(false, object[1:])
	for at := 0; at < len(written); at += 997 {
		b := bytes.Clone(written)
		b[at] ^= 4
		if err := bare.Put(ctx, prefix+"a/b", b); err != nil {
			t.Fatal(err)
		}
		check(false, object)
	}
	if err := bare.Put(ctx, prefix+"a/b", written[:len(written)-1]); err != nil {
		t.Fatal(err)
	}
	check(false, object)
	if err := Mend(ctx, s, "a/b"); err != nil {
		t.Fatal(err)
	}
	check(true, object)

	for _, err := range []error{s.Put(ctx, "a/a", nil), bare.Put(ctx, "a/without", object), bare.Delete(ctx, "a/b")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err = Each(ctx, s, func(i store.Info, parity int64) error {
		got = append(got, fmt.Sprint(i.Name, " ", i.Size, " ", parity > 0))
		return nil
	})
	if want := []string{"a/a 0 true", "a/b -1 true", "a/without 100000 false"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Each: %q, %v; want %q", got, err, want)
	}
}
