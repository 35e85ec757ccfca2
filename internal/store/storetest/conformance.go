package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/internal/store"
)

// Conformance checks the contract of store.Store. open returns a new, empty store for each part of it.
func Conformance(t *testing.T, open func(t *testing.T) store.Store) {
	for name, test := range map[string]func(*testing.T, store.Store){
		"bodies":         testBodies,
		"names":          testNames,
		"bad names":      testBadNames,
		"absent":         testAbsent,
		"overwrite":      testOverwrite,
		"create":         testCreate,
		"creators":       testCreators,
		"readers":        testReaders,
		"limit":          testLimit,
		"ranges":         testRanges,
		"list order":     testListOrder,
		"list model":     testListModel,
		"list pages":     testListPages,
		"list stops":     testListStops,
		"delete":         testDelete,
		"ended context":  testEndedContext,
		"lent and given": testOwnership,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test(t, s)
		})
	}
}

// wantKind checks that err is an *Error of that kind for op.
func wantKind(t *testing.T, err error, op string, kind store.Kind) {
	t.Helper()
	var e *store.Error
	if !errors.As(err, &e) {
		t.Errorf("%s: got error %v (%T), want a *store.Error", op, err, err)
		return
	}
	if e.Kind != kind || e.Op != op {
		t.Errorf("%s: got op %q kind %d (%v), want kind %d", op, e.Op, e.Kind, err, kind)
	}
}

func put(t *testing.T, s store.Store, name string, body []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, body); err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
}

func wantBody(t *testing.T, s store.Store, name string, want []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), name, int64(len(want)))
	if err != nil {
		t.Errorf("get %s: %v", name, err)
	} else if !bytes.Equal(got, want) {
		t.Errorf("get %s: got %d bytes that differ from the %d written", name, len(got), len(want))
	}
}

func list(t *testing.T, s store.Store, prefix, after string) []string {
	t.Helper()
	names := []string{}
	err := s.List(t.Context(), prefix, after, func(i store.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		t.Fatalf("list %q after %q: %v", prefix, after, err)
	}
	return names
}

// random returns n bytes that no compression makes equal.
func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = r.Read(b)
	return b
}

func testBodies(t *testing.T, s store.Store) {
	for _, n := range []int{0, 1, 4095, 4096, 1<<20 + 1, 9 << 20} {
		name := fmt.Sprintf("body/%d", n)
		put(t, s, name, random(n))
		wantBody(t, s, name, random(n))
		info, err := s.Stat(t.Context(), name)
		if want := (store.Info{Name: name, Size: int64(n)}); err != nil || info != want {
			t.Errorf("stat %s: got %v, %v, want %v", name, info, err, want)
		}
	}
}

// edgeNames are names at the borders of what is allowed.
func edgeNames() []string {
	long := strings.Repeat("long-element.", 19) + "12345678" // 255 bytes
	return []string{
		"0", ".hidden", "..hidden", "...", "-", "_", "-rf", "a.", "a..b", "tmp/.tmp", ".tmp/x",
		"deep/" + strings.Repeat("d/", 200) + "x", long, long + "/" + long + "/", "e/e/e/e",
	}
}

func testNames(t *testing.T, s store.Store) {
	var want []string
	for _, name := range edgeNames() {
		name = strings.TrimSuffix(name, "/")
		if strings.HasPrefix(name, "long") && strings.Contains(name, "/") {
			name = "w" + name[1:] // not below the object of the same name
		}
		if err := store.CheckName(name); err != nil {
			t.Fatal(err)
		}
		want = append(want, name)
		put(t, s, name, []byte(name))
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, list(t, s, "", "")); diff != "" {
		t.Errorf("names (-written +listed):\n%s", diff)
	}
	for _, name := range want {
		wantBody(t, s, name, []byte(name))
		if diff := cmp.Diff(selected(want, name, ""), list(t, s, name, "")); diff != "" {
			t.Errorf("list of a whole name (-want +got):\n%s", diff)
		}
		if err := s.Delete(t.Context(), name); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if left := list(t, s, "", ""); len(left) > 0 {
		t.Errorf("still listed after their deletion: %q", left)
	}
}

func testBadNames(t *testing.T, s store.Store) {
	ctx := t.Context()
	for _, name := range []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a/..", "A", "a b", "a\x00", "a\n", "ä",
		".tmp~", ".tmp~/x", "a\\b", strings.Repeat("a/", 256) + "a", strings.Repeat("x", 256),
	} {
		wantKind(t, s.Put(ctx, name, nil), "put", store.Other)
		wantKind(t, s.Create(ctx, name, nil), "create", store.Other)
		wantKind(t, s.Delete(ctx, name), "delete", store.Other)
		_, err := s.Get(ctx, name, 1)
		wantKind(t, err, "get", store.Other)
		wantKind(t, s.GetRange(ctx, name, 0, make([]byte, 1)), "get", store.Other)
		_, err = s.Stat(ctx, name)
		wantKind(t, err, "stat", store.Other)
	}
	for _, prefix := range []string{"/", "../", "a//", "a/../", "A", "a*"} {
		wantKind(t, s.List(ctx, prefix, "", func(store.Info) error { return nil }), "list", store.Other)
	}
	if got := list(t, s, "", ""); len(got) > 0 {
		t.Errorf("bad names left objects: %q", got)
	}
}

func testAbsent(t *testing.T, s store.Store) {
	ctx := t.Context()
	put(t, s, "file", nil)
	for _, name := range []string{"absent", "a/b/c", "file/below", "file.x"} {
		_, err := s.Get(ctx, name, 10)
		rangeErr := s.GetRange(ctx, name, 0, make([]byte, 1))
		emptyErr := s.GetRange(ctx, name, 0, nil)
		_, statErr := s.Stat(ctx, name)
		for op, err := range map[string]error{"get": err, "stat": statErr} {
			wantKind(t, err, op, store.Gone)
		}
		for _, err := range []error{err, rangeErr, emptyErr, statErr} {
			if !errors.Is(err, store.ErrNotExist) {
				t.Errorf("%s: got %v, want ErrNotExist", name, err)
			}
		}
		if err := s.Delete(ctx, name); err != nil {
			t.Errorf("delete of the absent %s: %v", name, err)
		}
	}
	if got := list(t, s, "no/such/place", ""); len(got) > 0 {
		t.Errorf("listed %q", got)
	}
}

func testOverwrite(t *testing.T, s store.Store) {
	for _, n := range []int{10, 1 << 20, 0, 3} {
		put(t, s, "a/name", random(n))
		wantBody(t, s, "a/name", random(n))
	}
}

func testCreate(t *testing.T, s store.Store) {
	if err := s.Create(t.Context(), "c/new", []byte("first")); err != nil {
		t.Fatal(err)
	}
	err := s.Create(t.Context(), "c/new", []byte("second"))
	wantKind(t, err, "create", store.Gone)
	if !errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotExist) {
		t.Errorf("create of an existing name: got %v, want ErrExists", err)
	}
	wantBody(t, s, "c/new", []byte("first"))
	if err := s.Delete(t.Context(), "c/new"); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "c/new", []byte("third")); err != nil {
		t.Errorf("create after delete: %v", err)
	}
	wantBody(t, s, "c/new", []byte("third"))
}

// testCreators races creators of one name: one wins, and its bytes stay.
func testCreators(t *testing.T, s store.Store) {
	const creators = 8
	for round := range 10 {
		name := fmt.Sprintf("race/%d", round)
		var won []int
		var mu sync.Mutex // guards won
		var wg sync.WaitGroup
		for i := range creators {
			wg.Go(func() {
				err := s.Create(t.Context(), name, fmt.Appendf(nil, "creator %d", i))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, i)
				} else if !errors.Is(err, store.ErrExists) {
					t.Errorf("create: %v", err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("round %d: creators %v were told that they won, want one", round, won)
		}
		wantBody(t, s, name, fmt.Appendf(nil, "creator %d", won[0]))
	}
}

// testReaders reads while a name is overwritten: every reader sees a whole body, of some writer.
func testReaders(t *testing.T, s store.Store) {
	sizes := []int{100, 300_000, 5_000}
	put(t, s, "hot", random(sizes[0]))
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				got, err := s.Get(t.Context(), "hot", 1<<20)
				if err != nil || !slices.Contains(sizes, len(got)) || !bytes.Equal(got, random(len(got))) {
					t.Errorf("a reader saw %d bytes, %v: not what any writer wrote", len(got), err)
					return
				}
			}
		})
	}
	for i := range 20 {
		put(t, s, "hot", random(sizes[i%len(sizes)]))
	}
	stop()
	wg.Wait()
}

func testLimit(t *testing.T, s store.Store) {
	put(t, s, "ten", random(10))
	wantBody(t, s, "ten", random(10))
	for _, max := range []int64{0, 9} {
		_, err := s.Get(t.Context(), "ten", max)
		wantKind(t, err, "get", store.Damaged)
	}
	put(t, s, "empty", nil)
	wantBody(t, s, "empty", nil)
}

func testRanges(t *testing.T, s store.Store) {
	const size = 5 << 20
	body := random(size)
	put(t, s, "r/body", body)
	put(t, s, "r/empty", nil)
	for _, c := range []struct {
		off int64
		n   int
	}{{0, 1}, {0, size}, {size - 1, 1}, {1, size - 1}, {4096, 4096}, {123457, 1 << 20}, {0, 0}, {size, 0}, {77, 0}} {
		dst := make([]byte, c.n)
		if err := s.GetRange(t.Context(), "r/body", c.off, dst); err != nil {
			t.Errorf("range %d+%d: %v", c.off, c.n, err)
		} else if !bytes.Equal(dst, body[c.off:c.off+int64(c.n)]) {
			t.Errorf("range %d+%d: other bytes than were written", c.off, c.n)
		}
	}
	for _, c := range []struct {
		name string
		off  int64
		n    int
	}{{"r/body", size, 1}, {"r/body", size - 1, 2}, {"r/body", 0, size + 1}, {"r/body", size + 1, 0}, {"r/body", 1 << 50, 1}, {"r/empty", 0, 1}} {
		wantKind(t, s.GetRange(t.Context(), c.name, c.off, make([]byte, c.n)), "get", store.Damaged)
	}
	wantKind(t, s.GetRange(t.Context(), "r/body", -1, make([]byte, 1)), "get", store.Other)
	if err := s.GetRange(t.Context(), "r/empty", 0, nil); err != nil {
		t.Errorf("empty range of an empty object: %v", err)
	}
}

func testDelete(t *testing.T, s store.Store) {
	put(t, s, "d/one", []byte("1"))
	put(t, s, "d/two", []byte("2"))
	for range 2 {
		if err := s.Delete(t.Context(), "d/one"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Stat(t.Context(), "d/one"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("stat after delete: got %v, want ErrNotExist", err)
	}
	if got := list(t, s, "d/", ""); !slices.Equal(got, []string{"d/two"}) {
		t.Errorf("listed %q after the deletion of d/one", got)
	}
}

func testEndedContext(t *testing.T, s store.Store) {
	put(t, s, "there", []byte("body"))
	why := errors.New("the reason why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	_, getErr := s.Get(ctx, "there", 10)
	_, statErr := s.Stat(ctx, "there")
	for op, err := range map[string]error{
		"put": s.Put(ctx, "there", nil), "create": s.Create(ctx, "new", nil), "delete": s.Delete(ctx, "there"),
		"get": getErr, "stat": statErr, "range": s.GetRange(ctx, "there", 0, make([]byte, 1)),
		"list": s.List(ctx, "", "", func(store.Info) error { return nil }),
	} {
		if !errors.Is(err, why) {
			t.Errorf("%s with an ended context: got %v, want its cause", op, err)
		}
	}
	wantBody(t, s, "there", []byte("body"))
}

// testOwnership changes what was lent and what was given: the object stays as it is.
func testOwnership(t *testing.T, s store.Store) {
	body := []byte("as it was")
	put(t, s, "own/put", body)
	if err := s.Create(t.Context(), "own/create", body); err != nil {
		t.Fatal(err)
	}
	clear(body)
	for _, name := range []string{"own/put", "own/create"} {
		got, err := s.Get(t.Context(), name, 100)
		if err != nil {
			t.Fatal(err)
		}
		clear(got)
		wantBody(t, s, name, []byte("as it was"))
	}
}
