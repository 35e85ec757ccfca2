package mount

import (
	"context"
	"sync"
	"time"
)

// pace spreads work over time.
type pace struct {
	mu   sync.Mutex // guards next
	next time.Time  // when the rate allows more
}

// take waits until so many bytes may be taken at a rate of bytes a second; 0 is no rate.
func (p *pace) take(ctx context.Context, bytes, rate int64) error {
	if rate <= 0 {
		return ctx.Err()
	}
	p.mu.Lock()
	now := time.Now()
	at := p.next
	if at.Before(now) {
		at = now
	}
	p.next = at.Add(time.Duration(float64(bytes) / float64(rate) * float64(time.Second)))
	p.mu.Unlock()
	return wait(ctx, at.Sub(now))
}
