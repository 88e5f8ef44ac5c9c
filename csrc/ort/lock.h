/* A lock, by what the operating system calls it. */
#ifndef EIE_ORT_LOCK_H
#define EIE_ORT_LOCK_H

#ifdef _WIN32
#include <windows.h>
typedef SRWLOCK eie_lock;
#define EIE_LOCK_INITIAL SRWLOCK_INIT
static inline void eie_lock_init(eie_lock *lock) { InitializeSRWLock(lock); }
static inline void eie_lock_take(eie_lock *lock) { AcquireSRWLockExclusive(lock); }
static inline void eie_lock_give(eie_lock *lock) { ReleaseSRWLockExclusive(lock); }
static inline void eie_lock_free(eie_lock *lock) { (void)lock; }
#else
#include <pthread.h>
typedef pthread_mutex_t eie_lock;
#define EIE_LOCK_INITIAL PTHREAD_MUTEX_INITIALIZER
static inline void eie_lock_init(eie_lock *lock) { pthread_mutex_init(lock, NULL); }
static inline void eie_lock_take(eie_lock *lock) { pthread_mutex_lock(lock); }
static inline void eie_lock_give(eie_lock *lock) { pthread_mutex_unlock(lock); }
static inline void eie_lock_free(eie_lock *lock) { pthread_mutex_destroy(lock); }
#endif

#endif
