package evidence

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"

	"github.com/holdfast-dr/holdfast/internal/seal"
)

func ed25519Key(key seal.PublicKey) ed25519.PublicKey { return ed25519.PublicKey(key[:]) }

// parsePEM is the reverse of publicPEM.
func parsePEM(text string) (key seal.PublicKey, err error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return key, errors.New("the public key is no PEM")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return key, errors.New("the public key cannot be read")
	}
	e, ok := k.(ed25519.PublicKey)
	if !ok {
		return key, errors.New("the public key is not of Ed25519")
	}
	return seal.PublicKey(e), nil
}
