package seal_test

import (
	"crypto/ed25519"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

// The example of DSSE's protocol.md.
func TestEnvelopeMessage(t *testing.T) {
	got := string(seal.EnvelopeMessage("http://example.com/HelloWorld", []byte("hello world")))
	if want := "DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEnvelopeAndNote(t *testing.T) {
	s, err := seal.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	key := s.Public()
	signature := s.SignEnvelope("text/plain", []byte("a"))
	if !key.VerifyEnvelope("text/plain", []byte("a"), signature) || key.VerifyEnvelope("text/plain", []byte("b"), signature) ||
		key.VerifyEnvelope("text/pla", []byte("ina"), signature) {
		t.Error("an envelope's signature is not told from another's")
	}
	if !ed25519.Verify(key[:], seal.EnvelopeMessage("text/plain", []byte("a")), signature) {
		t.Error("it is not plain Ed25519")
	}
	signed, err := note.Sign(&note.Note{Text: "name/1\n7\n"}, s.Note("name/1"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := key.NoteVerifier("name/1")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(signed, note.VerifierList(v)); err != nil || n.Text != "name/1\n7\n" {
		t.Errorf("open the note: %v", err)
	}
	other, err := key.NoteVerifier("name/2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(signed, note.VerifierList(other)); err == nil {
		t.Error("a note under another name is accepted")
	}
}
