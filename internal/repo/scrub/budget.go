package scrub

import (
	"time"
)

const (
	day = 24 * time.Hour
	// saved is how much of a budget is kept for later: what a pause has left undone is made good, and no more.
	saved = day
	// hurry is how much faster than its pace it reads at most, to make that good without taking the disk from others.
	hurry = 4
)

// earn adds to the balance what the time since the last call has earned. A clock that was set earns a day at most, and nothing where it was set
// back.
func (l *ledger) earn(now time.Time, perDay float64) {
	since := time.Duration(0)
	if !l.at.IsZero() {
		since = min(max(now.Sub(l.at), 0), saved)
	}
	l.balance = min(l.balance+perDay*float64(since)/float64(day), perDay*float64(saved)/float64(day))
	l.at = now
}

// spend takes read bytes from the balance, which may become negative by one object, or one survey.
func (l *ledger) spend(n int64) { l.balance -= float64(n) }

// until returns how long it takes to earn what is missing.
func (l *ledger) until(perDay float64) time.Duration {
	if l.balance > 0 || perDay <= 0 {
		return 0
	}
	return time.Duration((1-l.balance)/perDay*float64(day)) + time.Second
}

// breath is how long nothing is read after so many bytes.
func breath(n int64, perDay float64) time.Duration {
	if perDay <= 0 {
		return 0
	}
	return time.Duration(float64(n) / (hurry * perDay) * float64(day))
}

// surveyPart is how much of the budget surveys may take, unless one in a window takes more.
const surveyPart = 8

// surveyDue returns when the next survey is due: four times in a window, and less often where that would take more than its part of the
// budget, but once in a window in any case.
func (l *ledger) surveyDue(window time.Duration, perDay float64) time.Time {
	if l.surveyed.IsZero() {
		return time.Time{}
	}
	every := window / 4
	if perDay > 0 {
		every = max(every, time.Duration(min(surveyPart*float64(l.cost)/perDay*float64(day), float64(window))))
	}
	return l.surveyed.Add(every)
}
