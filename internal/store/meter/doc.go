// Package meter counts what is asked of a store: requests by operation and result, and bytes by direction. It stands
// right at the store, below the repetition of calls, so that it counts what a provider bills. It changes nothing.
package meter
