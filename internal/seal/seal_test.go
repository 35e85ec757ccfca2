package seal

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"lukechampine.com/blake3"
)

func testKeys(t testing.TB) *Keyring {
	t.Helper()
	k, err := NewKeyring(time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rotated(t testing.TB, k *Keyring) *Keyring {
	t.Helper()
	next, err := k.Rotate(time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestObjectRoundTrip(t *testing.T) {
	k := testKeys(t)
	for _, n := range []int{0, 1, 1000} {
		plain := bytes.Repeat([]byte{7}, n)
		sealed := k.SealWhole(KindSnapshot, "snapshots/a/b", plain)
		got, err := rotated(t, k).OpenWhole(KindSnapshot, "snapshots/a/b", bytes.Clone(sealed))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes, opened after a rotation: %d bytes, %v", n, len(got), err)
		}
		if len(sealed) != HeaderSize+n+Overhead {
			t.Errorf("%d bytes became %d", n, len(sealed))
		}
	}
}

func TestEveryByteCounts(t *testing.T) {
	k := testKeys(t)
	sealed := k.SealWhole(KindMark, "marks/x", []byte("plain"))
	for i := range sealed {
		for _, flip := range []byte{1, 0x80, 0xff} {
			b := bytes.Clone(sealed)
			b[i] ^= flip
			if _, err := k.OpenWhole(KindMark, "marks/x", b); err == nil {
				t.Errorf("byte %d was changed, and it opens", i)
			}
		}
		if _, err := k.OpenWhole(KindMark, "marks/x", bytes.Clone(sealed[:i])); err == nil {
			t.Errorf("cut at %d, and it opens", i)
		}
	}
	if _, err := k.OpenWhole(KindMark, "marks/x", append(bytes.Clone(sealed), 0)); err == nil {
		t.Error("with a byte more it opens")
	}
}

func TestAnObjectBelongsToItsPlace(t *testing.T) {
	k := testKeys(t)
	sealed := k.SealWhole(KindMark, "marks/x", []byte("plain"))
	var damaged *DamagedError
	if _, err := k.OpenWhole(KindMark, "marks/y", bytes.Clone(sealed)); !errors.As(err, &damaged) {
		t.Errorf("under another name: %v", err)
	}
	if _, err := k.OpenWhole(KindIntent, "marks/x", bytes.Clone(sealed)); !errors.As(err, &damaged) {
		t.Errorf("as another kind: %v", err)
	}
	other := bytes.Clone(sealed)
	other[4] = byte(KindIntent)
	if _, err := k.OpenWhole(KindIntent, "marks/x", other); !errors.As(err, &damaged) {
		t.Errorf("with another kind in its header: %v", err)
	}
	if _, err := testKeys(t).OpenWhole(KindMark, "marks/x", bytes.Clone(sealed)); !errors.As(err, &damaged) {
		t.Errorf("with another repository's keys: %v", err)
	}
	newer := rotated(t, k).SealWhole(KindMark, "marks/x", []byte("plain"))
	if _, err := k.OpenWhole(KindMark, "marks/x", newer); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("of an epoch that is not known: %v", err)
	}
}

func TestFramesBelongToTheirOffset(t *testing.T) {
	k := testKeys(t)
	o := k.NewObject(KindPack, "packs/x")
	frame := o.Seal(nil, []byte("content"), 44)
	if _, err := o.Open(nil, frame, 45); err == nil {
		t.Error("a frame opens at another offset")
	}
	if _, err := o.Open(nil, frame, 44+Directory); err == nil {
		t.Error("content opens as a directory")
	}
	if again := k.NewObject(KindPack, "packs/x").Seal(nil, []byte("content"), 44); bytes.Equal(again, frame) {
		t.Error("two objects of one name are sealed with one key")
	}
}

func TestSlots(t *testing.T) {
	k := rotated(t, testKeys(t))
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	key, err := KeyRecipient("ops", id.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	word, err := PassphraseRecipient("break-glass", "twelve characters", 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		r     Recipient
		right Credentials
		wrong Credentials
	}{
		{key, Credentials{Identities: []age.Identity{id}}, Credentials{Passphrase: "twelve characters"}},
		{word, Credentials{Passphrase: "twelve characters"}, Credentials{Passphrase: "twelve charakters"}},
		{word, Credentials{Passphrase: "twelve characters"}, Credentials{Identities: []age.Identity{id}}},
	} {
		s, err := k.Wrap(test.r, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Unlock(test.right)
		if err != nil || got.Repository() != k.Repository() || got.Epoch() != 2 || got.EpochCheck(1) != k.EpochCheck(1) {
			t.Errorf("%s: %v, %v", s.Name, got, err)
		}
		if _, err := s.Unlock(test.wrong); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%s with the wrong credentials: %v", s.Name, err)
		}
		if _, err := s.Unlock(Credentials{}); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%s without credentials: %v", s.Name, err)
		}
		changed := *s
		changed.Recipient = "age1mallory"
		if k.Authentic(&changed) || !k.Authentic(s) {
			t.Errorf("%s: a changed slot is authentic, or a good one is not", s.Name)
		}
		if _, err := changed.Unlock(test.right); err == nil {
			t.Errorf("%s: a changed slot opens", s.Name)
		}
	}
}

func TestAKeyringBelongsToItsRepository(t *testing.T) {
	a, b := testKeys(t), testKeys(t)
	if _, err := newKeyring(a.Repository(), b.epochs); err == nil {
		t.Error("another repository's secret is accepted")
	}
	if _, err := newKeyring(a.Repository(), nil); err == nil {
		t.Error("no epoch is accepted")
	}
	if _, err := newKeyring(a.Repository(), []Epoch{a.epochs[0], a.epochs[0]}); err == nil {
		t.Error("epochs that do not count are accepted")
	}
}

func TestNamesOfChunks(t *testing.T) {
	k := testKeys(t)
	a := k.ChunkID("main", []byte("x"))
	if a != rotated(t, k).ChunkID("main", []byte("x")) {
		t.Error("a rotation changes the names of chunks")
	}
	if a == k.ChunkID("eu", []byte("x")) || a == testKeys(t).ChunkID("main", []byte("x")) {
		t.Error("two groups or two repositories share names")
	}
	if got, err := ParseChunkID(a.String()); err != nil || got != a {
		t.Errorf("ParseChunkID: %v, %v", got, err)
	}
}

// The hash is BLAKE3's keyed mode, whatever library makes it and however long the chunk is: another library says so.
func TestChunkIDsAreKeyedBLAKE3(t *testing.T) {
	k := testKeys(t)
	key := derive(k.epochs[0].Secret, k.repository, contextChunkID+"/main")
	plain := make([]byte, 512<<10)
	for i := range plain {
		plain[i] = byte(i * i >> 5)
	}
	for _, n := range []int{0, 1, 63, 64, 65, 1023, 1024, 1025, 2048, 8191, 8192, 8193, 9216, 16384, 100000, len(plain) - 1, len(plain)} {
		h := blake3.New(32, key[:])
		h.Write(plain[:n])
		if got := k.ChunkID("main", plain[:n]); string(got[:]) != string(h.Sum(nil)) {
			t.Errorf("%d bytes: got %s, want %x", n, got, h.Sum(nil))
		}
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	s := newSecret()
	e := Epoch{Number: 1, Secret: s}
	c := Credentials{Passphrase: "open sesame"}
	text, _ := s.MarshalText()
	for _, p := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %x %s", e, e, e, e.Secret.String(), s), fmt.Sprintf("%v %+v %#v", c, c, c)} {
		if strings.Contains(p, string(text)) || strings.Contains(p, "sesame") {
			t.Errorf("a secret is printed: %s", p)
		}
	}
}

func TestSignatures(t *testing.T) {
	s, err := NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	same, err := SignerFromSeed(s.Seed())
	if err != nil {
		t.Fatal(err)
	}
	sig := same.Sign("mark", []byte("m"))
	p := s.Public()
	if !p.Verify("mark", []byte("m"), sig) || p.Verify("snapshot", []byte("m"), sig) || p.Verify("mark", []byte("n"), sig) {
		t.Error("a signature is for one purpose and one message")
	}
	if p.Verify("mark", []byte("m"), sig[:10]) {
		t.Error("a cut signature verifies")
	}
}

func FuzzParseSlot(f *testing.F) {
	k := testKeys(f)
	r, err := PassphraseRecipient("f", "twelve characters", 10)
	if err != nil {
		f.Fatal(err)
	}
	s, err := k.Wrap(r, time.Unix(0, 0))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(fmt.Sprintf(`{"name":%q,"kind":"passphrase","recipient":%q,"identity":"00","keyring":"AAAA"}`, s.Name, s.Recipient)))
	id, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSlot(b)
		if err != nil {
			return
		}
		if k, err := s.Unlock(Credentials{Identities: []age.Identity{id}}); err == nil {
			t.Errorf("a slot that nobody made opens: %v", k)
		}
	})
}

func FuzzKeyring(f *testing.F) {
	b, err := testKeys(f).marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := unmarshalKeyring(b)
		if err == nil && k.Epoch() == 0 {
			t.Error("a keyring without an epoch")
		}
	})
}

func FuzzOpenWhole(f *testing.F) {
	k := testKeys(f)
	f.Add(k.SealWhole(KindMark, "marks/x", []byte("plain")))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = k.OpenWhole(KindMark, "marks/x", b)
	})
}
