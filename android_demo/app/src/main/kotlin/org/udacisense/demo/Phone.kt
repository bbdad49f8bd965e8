package org.udacisense.demo

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.PowerManager
import java.io.File
import org.udacisense.core.Host
import org.udacisense.core.PhoneState
import org.udacisense.core.PhoneWatch

/** This phone: its fingerprint, and what changes while it measures. What it does not show is null. */
class Phone(
    private val context: Context,
    private val cpuFolder: File = File("/sys/devices/system/cpu")
) : PhoneWatch {
    private val power = context.getSystemService(Context.POWER_SERVICE) as PowerManager

    /** Threads for the classify screen: the big cores, but no more than four. */
    val threads: Int get() = (bigCores ?: cores).coerceIn(1, 4)

    val cores: Int get() = Runtime.getRuntime().availableProcessors()

    /** Cores whose highest frequency is above the lowest one's: all of them where all are alike. Null where it is hidden. */
    val bigCores: Int? by lazy {
        val highest =
            (0 until cores).mapNotNull { core ->
                line(File(cpuFolder, "cpu$core/cpufreq/cpuinfo_max_freq"))?.toLongOrNull()
            }
        if (highest.size < cores || highest.isEmpty()) null else highest.count { it > highest.min() }.let { if (it == 0) highest.size else it }
    }

    override fun read(): PhoneState {
        val battery = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))
        val level = battery?.getIntExtra(BatteryManager.EXTRA_LEVEL, -1) ?: -1
        val scale = battery?.getIntExtra(BatteryManager.EXTRA_SCALE, -1) ?: -1
        return PhoneState(
            thermalStatus = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) power.currentThermalStatus else null,
            batteryPercent = if (level >= 0 && scale > 0) level * 100 / scale else null,
            charging = battery?.getIntExtra(BatteryManager.EXTRA_PLUGGED, -1)?.takeIf { it >= 0 }?.let { it != 0 },
            powerSave = power.isPowerSaveMode
        )
    }

    fun host(): Host {
        val memory = ActivityManager.MemoryInfo().also { (context.getSystemService(Context.ACTIVITY_SERVICE) as ActivityManager).getMemoryInfo(it) }
        val version = context.packageManager.getPackageInfo(context.packageName, 0).versionName ?: "unknown"
        return Host(
            system = "Android ${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT}), ${Build.FINGERPRINT}",
            machine = Build.SUPPORTED_ABIS.firstOrNull() ?: "unknown",
            cpu = listOf("${Build.MANUFACTURER} ${Build.MODEL}", chip()).filter { it.isNotBlank() }.joinToString(", "),
            physicalCores = cores,
            logicalCores = cores,
            memoryBytes = memory.totalMem,
            governor = line(File(cpuFolder, "cpu0/cpufreq/scaling_governor")),
            // An app may not read the load of the phone.
            loadAverage = null,
            python = "none",
            libraries = mapOf("org.udacisense.demo" to version) + Libraries.VERSIONS,
            gitCommit = null,
            gitDirty = null
        )
    }

    private fun chip(): String = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}" else Build.HARDWARE

    private fun line(file: File): String? =
        try {
            file.readText().trim().ifEmpty { null }
        } catch (e: java.io.IOException) {
            null
        }
}
