package scrub

import "time"

// Statement is what is known about when the bytes of a replica were last read. The arithmetic is explained in docs/decisions/0030-scrub.md.
type Statement struct {
	At      time.Time     `json:"at"`
	Window  time.Duration `json:"windowNs"`
	Pace    string        `json:"pace"`
	Objects int           `json:"objects"` // in the last listing
	Bytes   int64         `json:"bytes"`
	// The bytes are of four kinds: read within the window and found good; not read yet and younger than the window; neither, so
	// that the promise is not kept; damaged.
	Verified int64 `json:"verifiedBytes"`
	Young    int64 `json:"youngBytes"`
	Overdue  int64 `json:"overdueBytes"`
	Damaged  int64 `json:"damagedBytes"`
	// Oldest is when the byte was read, or, if never, was written at the earliest, for which this is longest ago. It is zero where it is not
	// known how old one is that was never read.
	Oldest time.Time `json:"oldest,omitzero"`
	// MeanAge is how long ago a byte was last read on average, or written if never; of an unknown age it is counted from when the
	// ledger was begun, and longer in truth.
	MeanAge time.Duration `json:"meanAgeNs"`
	// Unseen are the chances that damage of an age is not seen yet.
	Unseen []Unseen  `json:"unseen"`
	Listed time.Time `json:"listed,omitzero"`
	Begun  time.Time `json:"begun,omitzero"` // the ledger
	// Surveyed is when it was last looked whether everything is there that is named.
	Surveyed time.Time `json:"surveyed,omitzero"`

	Read    int64     `json:"readBytes"`         // by this run
	Found   int64     `json:"found"`             // objects that it found damaged or missing
	Healed  int64     `json:"healed"`            // of these, put back
	Left    []Damage  `json:"left"`              // what stays damaged or missing
	Error   string    `json:"error,omitempty"`   // why nothing can be read at the moment
	Failing time.Time `json:"failing,omitzero"`  // since when
	By      string    `json:"by,omitempty"`      // the host that reads this replica instead of this one
	Repairs []string  `json:"repairs,omitempty"` // the last objects that were put back
}

// Damage is an object that is not as it was stored, or is missing.
type Damage struct {
	Object    string `json:"object"`
	Reason    string `json:"reason"`
	Snapshots int    `json:"snapshots,omitempty"` // that it touches, as far as that was looked at
}

// Unseen is the chance that damage which struck a byte so long ago, each byte with the same chance, is not seen yet.
type Unseen struct {
	Age   time.Duration `json:"ageNs"`
	Share float64       `json:"share"`
}

// Share returns the part of all bytes that was read within the window and found good.
func (s Statement) Share() float64 {
	if s.Bytes == 0 {
		return 1
	}
	return float64(s.Verified) / float64(s.Bytes)
}

// Late tells whether the promise is not kept although there was time for it: bytes were not read for one and a half windows since the ledger
// was begun.
func (s Statement) Late() bool {
	from := s.Oldest
	if from.Before(s.Begun) {
		from = s.Begun
	}
	return s.Overdue > 0 && s.At.Sub(from) > s.Window+s.Window/2
}

// ages are for which the chances are told, in parts of the window.
var ages = []float64{0.05, 0.25, 0.5, 1}

// state computes the statement of a ledger.
func (l *ledger) state(now time.Time, window time.Duration) Statement {
	s := Statement{At: now.UTC(), Window: window, Listed: l.listed, Begun: l.began, Surveyed: l.surveyed, Left: []Damage{}}
	before, unread := make([]int64, len(ages)), make([]int64, len(ages))
	oldest, sum := now.Unix(), 0.0
	for _, x := range l.objects {
		size := int64(x.size)
		s.Objects++
		s.Bytes += size
		read := int64(x.read)
		if read > now.Unix() {
			read = 0 // by a clock that was wrong
		}
		since := max(read, int64(x.seen)) // 0: unknown
		if since > now.Unix() {
			since = 0
		}
		oldest = min(oldest, since)
		counted := since
		if since == 0 {
			counted = min(l.began.Unix(), now.Unix())
		}
		sum += float64(size) * float64(now.Unix()-counted)
		from := now.Add(-window).Unix()
		switch {
		case x.damaged:
			s.Damaged += size
		case read > from:
			s.Verified += size
		case read == 0 && since > from:
			s.Young += size
		default:
			s.Overdue += size
		}
		for i, part := range ages {
			at := now.Unix() - int64(part*window.Seconds())
			if int64(x.seen) <= at { // it was there
				before[i] += size
				if read <= at && !x.damaged {
					unread[i] += size
				}
			}
		}
	}
	s.Oldest = fromStamp(uint32(max(oldest, 0)))
	if s.Bytes > 0 {
		s.MeanAge = time.Duration(sum / float64(s.Bytes) * float64(time.Second))
	}
	for i, part := range ages {
		u := Unseen{Age: time.Duration(part * float64(window))}
		if before[i] > 0 {
			u.Share = float64(unread[i]) / float64(before[i])
		}
		s.Unseen = append(s.Unseen, u)
	}
	return s
}
