package seal

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// Signer signs what one host makes. Its public half is registered in the repository.
type Signer struct{ key ed25519.PrivateKey }

// NewSigner makes a signer with a new key.
func NewSigner() (*Signer, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, err
	}
	return &Signer{key}, nil
}

// SignerFromSeed returns the signer with this private key (RFC 8032, a seed of 32 bytes).
func SignerFromSeed(seed []byte) (*Signer, error) {
	if len(seed) != ed25519.SeedSize {
		return nil, errors.New("a signing key has 32 bytes")
	}
	return &Signer{ed25519.NewKeyFromSeed(seed)}, nil
}

// Seed returns the private key, to be kept in a file that only its owner reads.
func (s *Signer) Seed() []byte { return s.key.Seed() }

// Public returns the key that verifies.
func (s *Signer) Public() PublicKey { return PublicKey(s.key.Public().(ed25519.PublicKey)) }

// SignatureSize is the length of a signature.
const SignatureSize = ed25519.SignatureSize

// Sign signs message for one purpose; a signature for one purpose is none for another.
func (s *Signer) Sign(purpose string, message []byte) []byte {
	return ed25519.Sign(s.key, signed(purpose, message))
}

// PublicKey verifies what a Signer signed.
type PublicKey [ed25519.PublicKeySize]byte

// ID returns 32 hexadecimal digits that name the key: the first half of its SHA-256.
func (p PublicKey) ID() string {
	h := sha256.Sum256(p[:])
	return hex.EncodeToString(h[:16])
}

// Verify reports whether signature is this key's for message and purpose.
func (p PublicKey) Verify(purpose string, message, signature []byte) bool {
	return ed25519.Verify(p[:], signed(purpose, message), signature)
}

func signed(purpose string, message []byte) []byte {
	b := append([]byte("holdfast/v1/sign/"+purpose), 0)
	return append(b, message...)
}
