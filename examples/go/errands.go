package main

import (
	"net/http"
	"net/url"
	"sync"
	"time"
)

const (
	letGoIn   = 3 * time.Second  // by then an heir that was let go to has the call, or has failed
	unsureFor = 15 * time.Second // by then a request that had no answer was carried out, or never will be
	patience  = 10 * time.Second // of an incoming call, while the sidecar is started again
	atOnce    = 8
)

// Open is for an incoming call, which waits a little while the sidecar is away; it returns the answer to it.
func (w *Worker) Open(session string, more Data) Answer {
	w.Lock()
	call, over := w.calls[session], w.ending[session]
	w.Unlock()
	if call != nil {
		return Answer{status: http.StatusOK, Document: Document{Session: Session{Epoch: call.epoch}}}
	}
	if over != nil {
		return Answer{status: http.StatusServiceUnavailable, Document: Document{Detail: "an earlier call " + session + " is not closed yet"}}
	}
	data := map[string]any{"call_sid": session, "sequence": 0}
	for name, value := range more {
		data[name] = value
	}
	began, body := now(), map[string]any{"recovery_data": data}
	answer := w.ask("open", "PUT", pathOf(session, ""), 0, body)
	for (answer.status == 0 || answer.status == 401 || answer.status >= 500) && now() < began+patience {
		time.Sleep(longestPause)
		answer = w.ask("open", "PUT", pathOf(session, ""), 0, body)
	}
	w.Lock()
	defer w.Unlock()
	if answer.done() && w.serve(session, answer.Session, answer.asked) {
		tell("opened", fields{"session": session, "epoch": answer.Epoch})
	}
	return answer
}

// adopt takes over a call that was offered.
func (w *Worker) adopt(session string) {
	answer := w.ask("adopt", "POST", pathOf(session, "/adopt"), 0, nil)
	w.Lock()
	if answer.unsure() {
		w.compare()
	}
	served := answer.done() && w.serve(session, answer.Session, answer.asked)
	if served {
		data := w.calls[session].newest()
		tell("adopted", fields{"session": session, "epoch": answer.Epoch, "sequence": data["sequence"], "data": data})
	}
	w.Unlock()
	if served { // else another was quicker
		w.ask("resumed", "POST", pathOf(session, "/resumed"), answer.Epoch, nil)
	}
}

// letGo tells the heir that waits that nobody speaks here any more. If it fails, the sidecar says that the call is still ours.
func (w *Worker) letGo(session string, epoch int64, call *Call) {
	body := map[string]any{}
	if call != nil {
		body["recovery_data"] = call.newest()
	}
	w.ask("let_go", "POST", pathOf(session, "/let-go"), epoch, body)
}

func (w *Worker) checkpoint(call *Call) {
	w.Lock()
	epoch, sequence, written, data := call.epoch, call.sequence, call.written, call.newest()
	w.Unlock()
	if sequence == 0 || sequence == written {
		return
	}
	body := map[string]any{"recovery_data": data, "sequence": sequence}
	answer := w.ask("checkpoint", "PUT", pathOf(call.session, "/checkpoint"), epoch, body)
	w.Lock()
	defer w.Unlock()
	if answer.done() {
		call.written = sequence
	} else if answer.gone() && call.epoch == epoch && w.calls[call.session] == call {
		w.lose(call.session, "its checkpoint was refused", epoch, 0)
	}
}

// settle closes or releases what is over here. What nobody owns by now is adopted in order to be closed.
func (w *Worker) settle(call *Call) {
	w.Lock()
	epoch, over, what := call.epoch, call.over, "released"
	w.Unlock()
	var answer Answer
	if over == ended {
		what = "closed"
		answer = w.ask("close", "DELETE", pathOf(call.session, ""), epoch, nil)
		if answer.status == http.StatusPreconditionFailed && w.isEnding(call) {
			answer = w.ask("adopt", "POST", pathOf(call.session, "/adopt"), 0, nil)
			if answer.done() {
				w.Lock()
				defer w.Unlock()
				w.serve(call.session, answer.Session, answer.asked)
				return
			}
		}
	} else {
		w.checkpoint(call)
		answer = w.ask("release", "POST", pathOf(call.session, "/release"), epoch, map[string]any{"reason": short(over)})
	}
	if answer.done() || answer.gone() || answer.status == http.StatusConflict {
		w.Lock()
		defer w.Unlock()
		if w.ending[call.session] != call { // the id is another call's by now
			return
		}
		delete(w.ending, call.session)
		w.lost[call.session] = loss{epoch, now()}
		tell(what, fields{"session": call.session})
	}
}

func (w *Worker) isEnding(call *Call) bool {
	w.Lock()
	defer w.Unlock()
	return w.ending[call.session] == call
}

// look asks what is ours: that is served here, and nothing else.
func (w *Worker) look() {
	w.Lock()
	instance := w.instance
	w.Unlock()
	answer := w.ask("sessions", "GET", "/v1/workers/"+url.PathEscape(instance)+"/sessions", 0, nil)
	w.Lock()
	defer w.Unlock()
	if !answer.done() || answer.Sessions == nil || instance != w.instance {
		return
	}
	ours := map[string]bool{}
	for _, found := range answer.Sessions {
		ours[found.Session] = true
		w.serve(found.Session, found, answer.asked)
	}
	for _, call := range append(list(w.calls), list(w.ending)...) {
		if !ours[call.session] && call.since <= answer.asked && call.instance == instance {
			w.lose(call.session, "the sidecar does not know it as ours", 0, 0)
		}
	}
}

// RunErrands tells the sidecar all that it is to be told. What it does not take comes again in the next round, with newer data.
func (w *Worker) RunErrands() {
	select {
	case <-w.wake:
	case <-time.After(w.interval):
	}
	w.Lock()
	comparing := now() < w.compareUntil
	w.Unlock()
	if comparing {
		w.look()
	}
	w.Lock()
	for session, gone := range w.lost {
		if now() > gone.at+4*unsureFor {
			delete(w.lost, session)
		}
	}
	ending, calls := list(w.ending), list(w.calls)
	w.Unlock()
	eachOf(ending, w.settle)
	eachOf(calls, w.checkpoint)
}

// eachOf does something with each call, a few at a time: one that has to wait does not make all others wait.
func eachOf(calls []*Call, do func(*Call)) {
	var done sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for _, call := range calls {
		room <- struct{}{}
		done.Add(1)
		go func(call *Call) {
			defer func() { <-room; done.Done() }()
			do(call)
		}(call)
	}
	done.Wait()
}
